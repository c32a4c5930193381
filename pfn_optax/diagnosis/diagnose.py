"""`diagnose`: measures once, asks every check, and puts root causes before their symptoms."""

import time
from collections.abc import Callable
from typing import Any

import jax

from pfn_optax.diagnosis.arguments import checked
from pfn_optax.diagnosis.budget import Budget, DoesNotApply, Skip
from pfn_optax.diagnosis.case import Case
from pfn_optax.diagnosis.causes import explained
from pfn_optax.diagnosis.checks import CHECKS, Check
from pfn_optax.diagnosis.diagnosis import CheckRecord, Diagnosis
from pfn_optax.diagnosis.finding import Finding, ranked
from pfn_optax.diagnosis.profile import layer_profiles
from pfn_optax.diagnosis.progress import progress_of
from pfn_optax.diagnosis.setup import TrainingSetup
from pfn_optax.diagnosis.thresholds import Thresholds
from pfn_optax.paths import named_leaves


def diagnose(
    loss: Callable[..., Any],
    params: Any,
    batch: Any,
    *,
    model: Callable[..., Any] | None = None,
    optimizer: Any = None,
    opt_state: Any = None,
    has_aux: bool = False,
    thresholds: Thresholds | None = None,
    max_seconds: float = 120.0,
    max_bytes: int | None = None,
    key: jax.Array | None = None,
    progress: bool = False,
) -> Diagnosis:
    """Says what is wrong with a network that does not train, where, why, and what to do.

    Every finding rests on a number measured on this batch. Layers are read off the loss, which runs
    as it is; nothing is trained, and nothing given is changed.

    Args:
        loss: `loss(params, batch)` to a real scalar, or to (scalar, anything) with `has_aux`.
        params: its parameters, any tree of arrays; or an `nnx.Module`, and then the loss is
            `loss(module, batch)`.
        batch: one batch of data, any tree of arrays. A few dozen examples are enough.
        model: `model(params, batch)` to its predictions; without it what the last layer puts out
            is taken for them.
        optimizer: the optax transformation that trains it, or an `nnx.Optimizer` with the state it
            has; None to leave out what depends on it.
        opt_state: the transformation's state; by default `optimizer.init(params)`, that before the
            first step.
        has_aux: whether the loss returns more than the scalar.
        thresholds: what measurements are compared with.
        max_seconds: what it may take; what does not fit is skipped, and `skipped` says so.
        max_bytes: of memory that one program may take; by default half of the machine's, or what is
            free of the accelerator's.
        key: for what is drawn at random, `jax.random.key(0)` by default.
        progress: whether to tell on stderr what is being looked at, by a bar if `tqdm` is there.

    Returns:
        The `Diagnosis`: findings with what to mend first first, and the layers with what was
        measured of each.

    Raises:
        ValueError: if there is nothing to train, the loss is no real scalar, a limit is not
            positive, or `opt_state` is given beside an `nnx.Optimizer` or is of other parameters.
        TypeError: if a leaf is not an array, or the optimizer is none.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from pfn_optax.diagnosis import diagnose
        >>> x = jax.random.normal(jax.random.key(0), (16, 4))
        >>> params = {"in": {"w": jnp.eye(4), "b": jnp.full(4, -9.0)}, "out": {"w": jnp.eye(4)}}
        >>> def loss(params, x):
        ...     h = jax.nn.relu(x @ params["in"]["w"] + params["in"]["b"])
        ...     return jnp.mean((h @ params["out"]["w"] - x) ** 2)
        >>> found = diagnose(loss, params, x)
        >>> print(found.findings[0].cause, found.findings[0].layers)
        dead_units ('in',)
    """
    for name, limit in (("max_seconds", max_seconds), ("max_bytes", max_bytes)):
        if limit is not None and not limit > 0:
            raise ValueError(f"{name} must be positive, got {limit}.")
    setup = TrainingSetup(loss, params, batch, model, optimizer, opt_state, has_aux)
    case = Case(
        checked(setup),
        thresholds or Thresholds(),
        jax.random.key(0) if key is None else key,
        Budget(max_seconds, max_bytes),
    )
    return examine(case, progress=progress)


def examine(case: Case, *, progress: bool = False) -> Diagnosis:
    """Asks every check of a case; `diagnose` behind its arguments.

    Args:
        case: what is examined.
        progress: whether to tell on stderr what is being looked at.

    Returns:
        The `Diagnosis`.
    """
    findings: list[Finding] = []
    records = []
    with progress_of(len(CHECKS), is_shown=progress) as steps:
        for name, check in CHECKS.items():
            steps.begin(name)
            records.append(_run(name, check, case, findings))
    return Diagnosis(
        findings=ranked(explained(findings)),
        layers=layer_profiles(case),
        measures=case.measures,
        checks=tuple(records),
        num_params=sum(leaf.size for _, leaf in named_leaves(case.setup.params)),
        seconds=case.budget.elapsed,
    )


def _run(name: str, check: Check, case: Case, findings: list[Finding]) -> CheckRecord:
    """Runs one check; what it found before it was skipped counts."""
    start = time.perf_counter()
    skipped, applies = "", True
    try:
        for finding in check(case):
            findings.append(finding)
    except Skip as skip:
        skipped, applies = str(skip), not isinstance(skip, DoesNotApply)
    return CheckRecord(name, time.perf_counter() - start, skipped, applies)
