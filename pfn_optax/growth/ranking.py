"""Which groups the minimum cut asks to grow, and for how long it has."""

from typing import Any, NamedTuple

import numpy as np

from pfn_optax.growth.sides import Side, narrowest, splittable
from pfn_optax.report import snapshot
from pfn_optax.units import Group, Member, UnitSpec


class Ranked(NamedTuple):
    """A group of units at the cut.

    Attributes:
        group: its name.
        score: how deep times how long: the share of the cut's capacity that lies on the layers
            beside the group, each block's times the number of diagnoses in a row that found it in
            the cut.
        share: the share alone, in [0, 1].
        persistence: the largest number of diagnoses in a row, 1 for the last one only.
        layers: the layers in the cut beside it.
    """

    group: str
    score: float
    share: float
    persistence: int
    layers: tuple[str, ...]


class Ranking(NamedTuple):
    """The groups at the cut, the one that has been there longest and deepest first.

    Attributes:
        groups: the groups.
        pinned: layers in the cut that no group beside them would widen: the narrower side is given
            by the data, as that of a head with fewer outputs than units, or cannot grow.
        beside: the groups on the wider side of those layers. More units there let no more
            directions pass; it is for who must grow somewhere.
    """

    groups: tuple[Ranked, ...]
    pinned: tuple[str, ...]
    beside: tuple[Ranked, ...] = ()


def rank_groups(
    state: Any, params: Any, spec: UnitSpec, *, since: int = 0, **options: Any
) -> Ranking:
    """Ranks the groups beside the cut by how long and how deep they have been in it.

    A layer in the cut speaks for the narrower of the two sides that it joins, since its rank is at
    most that one's width. Where the narrower one is not made of units that can grow (the data, the
    outputs, a stream behind a norm), it speaks for none. Where both are as wide (the layer itself
    is the bottleneck, not the units), it speaks for the one that it produces: fresh units there
    bring random directions into the layer. Skips in the cut speak for none.

    Args:
        state: an optimizer state with one `PFNState` in it.
        params: the parameters that it is for; only names and shapes are read.
        spec: the groups. Sizes are read from it, so the parameters may be padded.
        since: number of certified diagnoses at the last change of sizes: what they found was
            found of another network, and does not count.
        **options: `block_size`, `num_blocks`, `output_axis`, `capacity`, `graph`, as given to
            `pfn`.

    Returns:
        The ranking; empty before the first certified diagnosis.

    Raises:
        ValueError: if no single `PFNState` is found, or it does not fit the parameters.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from pfn_optax import pfn
        >>> from pfn_optax.growth import rank_groups
        >>> from pfn_optax.units import unit_spec
        >>> params = {"a": jnp.ones((3, 4)), "b": jnp.ones((4, 1)), "c": jnp.ones((1, 3))}
        >>> def predict(params, x):
        ...     return jnp.tanh(jnp.tanh(x @ params["a"]) @ params["b"]) @ params["c"]
        >>> spec = unit_spec(predict, params, jnp.ones((1, 3)))
        >>> optimizer = pfn(capacity="norm", every=1)
        >>> _, state = optimizer.update(params, optimizer.init(params), params)
        >>> rank_groups(state, params, spec, capacity="norm").groups[0].group
        'b'
    """
    known, layout, _, _ = snapshot(state, params, **options)
    in_cut = known.pfn_cut.astype(bool)
    num_new = int(known.pfn_diagnoses) - since
    if not in_cut.any() or num_new < 1:
        return Ranking((), ())
    weights = np.where(in_cut, np.maximum(known.pfn_capacities.astype(np.float64), 0), 0)
    if not (np.isfinite(weights).all() and weights.sum() > 0):
        weights = in_cut.astype(np.float64)
    shares = weights / weights.sum()
    runs = np.minimum(known.pfn_persistence + 1, num_new)
    found: dict[str, list[tuple[str, slice]]] = {}
    others: dict[str, list[tuple[str, slice]]] = {}
    pinned = []
    for layer in layout.layers:
        if not in_cut[layer.blocks].any():
            continue
        asked, other = _asked(narrowest(spec, layer)), _asked(splittable(spec, layer))
        if asked is None:
            pinned.append(layer.name)
        if (name := asked or other) is not None:
            groups = found if asked else others
            groups.setdefault(name, []).append((layer.name, layer.blocks))

    def ranked(groups: dict[str, list[tuple[str, slice]]]) -> tuple[Ranked, ...]:
        every = [
            Ranked(
                group=name,
                score=float(sum((shares[blocks] * runs[blocks]).sum() for _, blocks in own)),
                share=float(sum(shares[blocks].sum() for _, blocks in own)),
                persistence=int(max(runs[blocks][in_cut[blocks]].max() for _, blocks in own)),
                layers=tuple(layer for layer, _ in own),
            )
            for name, own in groups.items()
        ]
        return tuple(sorted(every, key=lambda one: -one.score))

    return Ranking(ranked(found), tuple(pinned), ranked(others))


def _asked(found: list[tuple[Side, Group, Member]]) -> str | None:
    """The group to grow for a layer: what it produces rather than what it reads."""
    names = [
        (side.width, side.is_read, member.before * group.size * member.after, group.name)
        for side, group, member in found
    ]
    return min(names)[3] if names else None
