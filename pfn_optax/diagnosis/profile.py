"""Layers with what was measured of each."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from pfn_optax.diagnosis.bottleneck import Flow, measure_flow
from pfn_optax.diagnosis.case import Case, Skip
from pfn_optax.diagnosis.diagnosis import LayerProfile
from pfn_optax.diagnosis.leaves import LeafNumbers, measure_given
from pfn_optax.diagnosis.rows import cosine, rank
from pfn_optax.diagnosis.signal import LayerSignal, measure_signal
from pfn_optax.diagnosis.training import measure_training
from pfn_optax.partition import GridLayer, Layer


def layer_profiles(case: Case) -> tuple[LayerProfile, ...]:
    """Returns the layers in the order of execution, then those that were not recognised in it."""
    try:
        params, _ = case.once(measure_given)
    except Skip:
        params = {}
    try:
        signal = case.once(measure_signal)
        gradients, tapped = signal.gradient_numbers, signal.layers
    except Skip:
        gradients, tapped = {}, ()
    layers = {layer.name: layer for layer in case.layout.layers}
    seen = {one.layer for one in tapped}
    flow, updates = _flow(case), _updates(case)
    return tuple(
        _with_flow(_profile(layers[name], one, params, gradients, updates), name, flow)
        for name, one in (
            *((one.layer, one) for one in tapped),
            *((name, None) for name in layers if name not in seen),
        )
    )


def _flow(case: Case) -> Flow | None:
    try:
        return case.once(measure_flow)
    except Skip:
        return None


def _updates(case: Case) -> dict[str, float]:
    """Norms of the first update by leaf; none if the optimizer was not put to work."""
    try:
        training = case.once(measure_training)
        steps = training.steps.steps
    except Skip:
        return {}
    return dict(zip(training.names, map(float, steps[0].update), strict=True)) if steps else {}


def _with_flow(profile: LayerProfile, layer: str, flow: Flow | None) -> LayerProfile:
    if flow is None or layer not in flow.ranks:
        return profile
    return replace(profile, capacity=float(flow.ranks[layer]), is_in_cut=layer in flow.layers)


def _profile(
    layer: Layer | GridLayer,
    one: LayerSignal | None,
    params: Mapping[str, LeafNumbers],
    gradients: Mapping[str, LeafNumbers],
    updates: Mapping[str, float],
) -> LayerProfile:
    paths = ["/".join(path) for path in layer.paths]
    known = [params[path] for path in paths if path in params]
    size = _joint_norm(known)
    update = math.hypot(*(updates[path] for path in paths if path in updates))
    base = LayerProfile(
        name=one.name if one else layer.name,
        num_params=sum(numbers.size for numbers in known),
        width=one.width if one else None,
        parameter_norm=size,
        gradient_norm=_joint_norm(gradients[path] for path in paths if path in gradients),
        update_ratio=update / size if updates and size else None,
    )
    if one is None:
        return base
    return replace(
        base,
        mean_square=float(np.max(one.pre_rms**2)),
        gain=one.gain,
        activation_rank=rank(one.post[-1]),
        mean_cosine=cosine(one.post[-1]),
        dead_units=one.dead_share,
        saturated_share=one.saturated_share,
        backward_norm=math.hypot(*one.backward_norm),
    )


def _joint_norm(known: Iterable[LeafNumbers]) -> float | None:
    norms = [numbers.norm for numbers in known]
    return math.hypot(*norms) if norms else None
