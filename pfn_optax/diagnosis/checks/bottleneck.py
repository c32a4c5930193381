"""A hidden layer that lets far fewer directions through than the head and the data have."""

from collections.abc import Iterator

from pfn_optax.diagnosis.bottleneck import measure_flow
from pfn_optax.diagnosis.case import Case
from pfn_optax.diagnosis.finding import Cause, Evidence, Finding, Severity
from pfn_optax.table import listed


def check_bottleneck(case: Case) -> Iterator[Finding]:
    """Compares the minimum cut of the ranks with the ends of the network."""
    flow, limits = case.once(measure_flow), case.thresholds
    case.measures["flow_rank"] = flow.value
    needed = min(flow.head, flow.data, float(limits.needed_rank))
    share = flow.value / needed if needed else 1.0
    if share >= limits.cut_rank or not flow.layers:
        return
    lost = needed - flow.value
    narrow = min(flow.widths)
    is_thin = narrow <= flow.value
    summary = (
        f"All that passes goes through {listed(flow.layers, 3)}, which lets through "
        f"{_count(flow.value)}; the ends of the network need {needed:.0f}, and less than "
        f"{limits.cut_rank:.0%} of them are too few."
    )
    if is_thin:
        remedy = (
            f"Make it wider: {max(2 * round(needed), 8)} units or more in {listed(flow.layers, 3)} "
            f"(it has {narrow}), or put a residual connection around it."
        )
    else:
        remedy = (
            f"Its {narrow} units span only {_count(flow.value)}: initialise "
            f"{listed(flow.layers, 3)} anew (jax.nn.initializers.he_normal, or orthogonal)."
        )
    yield Finding(
        Cause.BOTTLENECK,
        Severity.CRITICAL if share < limits.severe_cut_rank else Severity.WARNING,
        summary,
        f"{remedy} If it is meant, as the code of an autoencoder is, nothing is wrong.",
        (
            Evidence("directions through the minimum cut", flow.value, limits.cut_rank * needed),
            Evidence("directions lost", lost),
        ),
        flow.layers,
        excess=limits.cut_rank / max(share, 1e-3),
    )


def _count(directions: float) -> str:
    return f"{directions:.0f} direction{'' if directions == 1 else 's'}"
