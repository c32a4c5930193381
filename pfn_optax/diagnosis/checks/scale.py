"""Signals that get lost or grow on their way from the data to the loss: mis-scaled weights."""

import itertools
import math
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from pfn_optax.diagnosis.case import Case, Skip
from pfn_optax.diagnosis.finding import Cause, Evidence, Finding
from pfn_optax.diagnosis.signal import LayerSignal, Signal, measure_signal
from pfn_optax.paths import named_leaves, names_of
from pfn_optax.propagation.backward_taps import gradient_norm
from pfn_optax.table import listed


def check_scale(case: Case) -> Iterator[Finding]:
    """Follows the size of the signal layer by layer, and looks at what the last puts out."""
    signal = case.once(measure_signal)
    if not signal.layers:
        raise Skip(signal.trouble)
    layers = [layer for layer in signal.layers if layer.has_real_input]
    if layers and all(layer.is_finite.all() for layer in signal.layers):
        yield from _lost(case, layers)
        grown = list(_grown(case, layers))
        yield from grown
        if grown:
            return  # and the outputs with it
    yield from _output(case, signal)


def over_rounds(values: np.ndarray) -> float:
    """Root mean square over rounds."""
    return float(np.sqrt(np.mean(values**2)))


def layer_gain(layer: LayerSignal) -> float:
    """Returns root mean square of activations over that of what the layer is applied to."""
    given = over_rounds(layer.given_rms)
    return over_rounds(layer.post_rms) / given if given else 0.0


def _reference(layers: Sequence[LayerSignal]) -> float:
    """The size of the signal at the first layer."""
    return over_rounds(layers[0].given_rms) or 1.0


def _lost(case: Case, layers: Sequence[LayerSignal]) -> Iterator[Finding]:
    limits, structure = case.thresholds, case.structure
    first = _reference(layers)
    on_the_way = [layer for layer in layers if layer.layer in structure.serial]
    hidden = [layer for layer in on_the_way if layer.layer not in structure.heads]
    later = [layer for layer in on_the_way if layer.layer not in structure.inputs]
    gains = {layer: layer_gain(layer) for layer in hidden}
    at = min(later, key=lambda one: over_rounds(one.given_rms), default=None)
    left = over_rounds(at.given_rms) / first if at else 1.0
    if at is not None and left < limits.signal_loss:
        if place := _lost_between(layers, on_the_way, at, left):
            yield _not_by_weights(case, *place, left)
            return
        before = hidden[: hidden.index(at)] if at in hidden else hidden
        # None where no weights made it small: a state behind a closed gate, for one.
        culprits = _culprits(before, gains, is_small=True)
        if culprits and math.prod(min(gains[one], 1.0) for one in before) ** 2 <= left:
            yield _too_small(case, culprits, left, limits.signal_loss)
            return
    small = sorted(
        (layer for layer in hidden if gains[layer] < limits.layer_loss), key=gains.__getitem__
    )
    if small:
        yield _too_small(case, small, gains[small[0]], limits.layer_loss)


def _lost_between(
    layers: Sequence[LayerSignal], on_the_way: Sequence[LayerSignal], at: LayerSignal, left: float
) -> tuple[LayerSignal, LayerSignal, float] | None:
    """The neighbours between which, and not in a layer, most of the signal gets lost."""
    places = [
        (one, other, over_rounds(other.given_rms) / sent)
        for one, other in itertools.pairwise(layers[: layers.index(at) + 1])
        if other in on_the_way and (sent := _sent(one))
    ]
    place = min(places, key=lambda place: place[-1], default=None)
    # By more than by everything else.
    return place if place is not None and place[-1] ** 2 < left else None


def _sent(layer: LayerSignal) -> float:
    """The size of what comes out of a layer; of a recurrent one, in the end."""
    return float(layer.post_rms[-1]) if layer.is_recurrent else over_rounds(layer.post_rms)


def _not_by_weights(
    case: Case, one: LayerSignal, other: LayerSignal, ratio: float, left: float
) -> Finding:
    excess = case.thresholds.signal_loss / max(left, 1e-30)
    # Sums of thousands of numbers round to this.
    rest = " What is left is rounding." if ratio < 1e-5 else ""
    return Finding(
        Cause.LOST_SIGNAL,
        case.severity(excess),
        f"Between {one.name} and {other.name} the signal becomes {1 / max(ratio, 1e-30):.3g} times "
        f"smaller, in no layer's weights.{rest}",
        "Look at what the code does between them: a norm over the very axes that are averaged next "
        "(a norm of fewer groups, or over the features), a difference of equal things, a factor "
        "near 0. Larger weights would not help.",
        (
            Evidence("signal left of the data's", left, case.thresholds.signal_loss),
            Evidence(f"of it between {one.name} and {other.name}", ratio),
        ),
        tuple(dict.fromkeys((one.layer, other.layer))),
        excess=excess,
    )


def _culprits(
    layers: Sequence[LayerSignal], gains: dict[LayerSignal, float], *, is_small: bool
) -> list[LayerSignal]:
    """Those with a good part in the change, the guiltiest first; one that has most of it alone."""
    sign = -1.0 if is_small else 1.0
    parts = {layer: sign * np.log(max(gains[layer], 1e-30)) for layer in layers}
    ordered = sorted(layers, key=lambda layer: -parts[layer])
    total = sum(max(part, 0.0) for part in parts.values())
    if not ordered or parts[ordered[0]] > 0.6 * total:
        return ordered[:1]
    return [layer for layer in ordered if parts[layer] > 0.2 * parts[ordered[0]]]


def _too_small(case: Case, layers: Sequence[LayerSignal], left: float, limit: float) -> Finding:
    gains = {layer: layer_gain(layer) for layer in layers}
    names = [layer.name for layer in layers]
    is_one = len(layers) == 1
    factor = 1 / max(float(np.median(list(gains.values()))), 1e-30)
    summary = (
        f"{names[0]} makes the signal {1 / max(gains[layers[0]], 1e-30):.3g} times smaller."
        if is_one
        else f"The signal is {1 / max(left, 1e-30):.3g} times smaller behind {listed(names, 4)} "
        "than the data."
    )
    excess = limit / max(left, 1e-30)
    return Finding(
        Cause.INIT_TOO_SMALL,
        case.severity(excess),
        summary,
        f"Make the weights of {'this layer' if is_one else 'these layers'} about {factor:.3g} "
        f"times larger: {initializer(layers[0].activation)}; or a norm layer.",
        (
            Evidence("signal left of the data's", left, limit),
            *(Evidence(f"signal through {one.name}", gains[one]) for one in layers[:5]),
        ),
        tuple(dict.fromkeys(layer.layer for layer in layers)),
        excess=excess,
    )


def initializer(activation: str | None) -> str:
    """Returns in words the initializer that keeps a signal's size under an activation."""
    if activation in ("tanh", "logistic", "erf"):
        name = "sigmoid" if activation == "logistic" else activation
        return f"pfn_optax.propagation.critical_init for {name}"
    if activation is None:
        return "jax.nn.initializers.lecun_normal()"
    return "jax.nn.initializers.he_normal()"


def _grown(case: Case, layers: Sequence[LayerSignal]) -> Iterator[Finding]:
    limit = case.thresholds.signal_growth
    first = _reference(layers)
    sizes = {layer: float(layer.given_rms.max()) / first for layer in layers}
    at = max(layers, key=sizes.__getitem__)
    if not sizes[at] > limit:
        return
    before = layers[: layers.index(at)] or [at]
    gains = {layer: layer_gain(layer) for layer in before}
    guilty = _culprits(before, gains, is_small=False)
    names = [layer.name for layer in guilty]
    median = float(np.median([gains[layer] for layer in guilty]))
    excess = sizes[at] / limit
    yield Finding(
        Cause.INIT_TOO_LARGE,
        case.severity(excess),
        f"The signal is {sizes[at]:.3g} times larger at {at.name} than the data, by "
        f"{listed(names, 4)}.",
        f"Make these weights about {max(median, 1.5):.3g} times smaller: "
        f"{initializer(guilty[0].activation)}; in residual branches by the square root of their "
        "number, or start their last layer at 0; or a norm layer.",
        (
            Evidence("signal over the data's", sizes[at], limit),
            *(Evidence(f"signal through {layer.name}", gains[layer]) for layer in guilty[:5]),
        ),
        tuple(dict.fromkeys(layer.layer for layer in guilty)),
        excess=excess,
    )


def _output(case: Case, signal: Signal) -> Iterator[Finding]:
    """Compares the loss with that of outputs that are 0, a last layer of zeros."""
    limits = case.thresholds
    heads = _heads(case, signal)
    size = max((float(layer.pre_rms.max()) for layer in heads), default=0.0)
    if not size > limits.output_rms or not np.isfinite(signal.loss):
        return
    chance, *_ = signal.run(_without(case, heads), case.setup.batch)
    chance = float(chance)
    case.measures["loss_at_zero_output"] = chance
    if not 0 < chance * limits.loss_over_chance < signal.loss:
        return
    ratio = signal.loss / chance
    names = [one.layer if _is_tied(case, signal, one) else one.name for one in heads]
    excess = ratio / limits.loss_over_chance
    gains = {
        name: over_rounds(one.pre_rms) / (over_rounds(one.given_rms) or 1.0)
        for name, one in zip(names, heads, strict=True)
        if one.has_real_input
    }
    yield Finding(
        Cause.INIT_TOO_LARGE,
        case.severity(excess),
        f"The loss is {signal.loss:.3g}, and {chance:.3g} with outputs that are 0: "
        f"{listed(names, 4)} put out numbers of size {size:.3g}.",
        _smaller(case, signal, max(heads, key=lambda one: one.pre_rms.max()), size),
        (
            Evidence("loss over that with outputs 0", ratio, limits.loss_over_chance),
            Evidence("size of the outputs", size, limits.output_rms),
            *(Evidence(f"signal through {name}", gain) for name, gain in gains.items()),
        ),
        tuple(dict.fromkeys(one.layer for one in heads)),
        excess=excess,
    )


def _heads(case: Case, signal: Signal) -> list[LayerSignal]:
    """The last layers, where they put out what the loss is given."""
    found = [layer for layer in signal.layers if layer.layer in case.structure.heads]
    return [
        one for one in found if not _is_tied(case, signal, one) or one is _uses(signal, one)[-1]
    ]


def _uses(signal: Signal, layer: LayerSignal) -> list[LayerSignal]:
    """A layer wherever it is applied, in the order of execution."""
    return [one for one in signal.layers if one.layer == layer.layer]


def _is_tied(case: Case, signal: Signal, head: LayerSignal) -> bool:
    """Whether a last layer is applied to the data as well, as a tied embedding is."""
    return head.layer in case.structure.inputs and len(_uses(signal, head)) > 1


def _smaller(case: Case, signal: Signal, head: LayerSignal, size: float) -> str:
    """What to try where a last layer puts out numbers of that size."""
    is_tied = _is_tied(case, signal, head)
    is_embedding = not all(one.has_real_input for one in _uses(signal, head))
    own = head.leaf.rpartition("/")[2]
    if not (is_tied or is_embedding or own == "embedding"):
        return (
            f"Make its weights about {size:.2g} times smaller, or start them at 0 "
            "(kernel_init=jax.nn.initializers.zeros)."
        )
    # Zeros would leave nothing of the data: the same table is what it enters by.
    leaves = {"/".join(path): leaf for path, leaf in named_leaves(case.setup.params)}
    deviation = float(gradient_norm(leaves[head.leaf])) / leaves[head.leaf].size ** 0.5 / size
    argument = f"{own}_init=" if own in ("embedding", "kernel") else ""
    remedy = (
        f"Make its weights about {size:.2g} times smaller: draw them with a standard deviation of "
        f"{deviation:.2g} ({argument}jax.nn.initializers.normal({deviation:.2g}))."
    )
    if not is_tied:
        return remedy
    return (
        f"{remedy} The data enters by the same weights: to leave them as they are there, multiply "
        f"what they put out at the end by {1 / size:.2g}."
    )


def _without(case: Case, heads: Sequence[LayerSignal]):
    """The parameters with zeros for those of the last layers."""
    names = {layer.layer for layer in heads}

    def zero(path, leaf):
        is_head = case.layer_of("/".join(names_of(path))) in names
        return jnp.zeros_like(leaf) if is_head else leaf

    return jax.tree_util.tree_map_with_path(zero, case.setup.params)
