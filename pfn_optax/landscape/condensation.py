"""Condensation: units that point the same way do the work of one, and are replaced by it.

The reverse of the embedding principle. Trained from small weights, the units of a layer gather on
a few directions, and the network is that of a narrow one, embedded.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from pfn_optax.landscape.clusters import Clusters, clusters_of, is_homogeneous
from pfn_optax.landscape.comparison import Comparison, compared
from pfn_optax.landscape.refit import Refit
from pfn_optax.paths import named_leaves
from pfn_optax.units import Group, UnitSpec, merge_units


class Condensed(NamedTuple):
    """A network with fewer units, and what it has lost.

    Attributes:
        params: the smaller parameters, with the structure and dtypes of the wide ones.
        spec: their groups of units.
        clusters: for each group that was condensed which old units its new ones stand for.
        comparison: of the outputs of both networks; None without data.
    """

    params: Any
    spec: UnitSpec
    clusters: dict[str, Clusters]
    comparison: Comparison | None


def condense(
    params: Any,
    spec: UnitSpec,
    *,
    similarity: float = 0.9,
    amplitude: float = 0.01,
    sizes: Mapping[str, int | None] | None = None,
    function: Callable[..., Any] | None = None,
    batches: Iterable[tuple[Any, ...]] = (),
    ridge: float = 1e-6,
    loss: Callable[..., Any] | None = None,
    rebuild: Callable[[UnitSpec], Callable[..., Any]] | None = None,
    fine_tune: Callable[[Any, UnitSpec], Any] | None = None,
) -> Condensed:
    r"""Replaces units with like incoming weights by one of them.

    All of the incoming weights of a unit, [w; b], are one vector. Units of a cluster are all
    within the similarity of each other (complete linkage), and the one with the largest amplitude
    stays. What reads it takes over the others,

    .. math:: a_j \leftarrow \sum_k a_k |w_k| / |w_j|,

    which changes nothing where the w_k are parallel and the unit is homogeneous, as with ReLU.
    With data, for any activation, the weights that read the units that stay are instead those that
    give the next layers the nearest inputs, in least squares over all rows: with the activations
    H of all units and H_J of those that stay, a is replaced by M a,

    .. math:: M = \arg\min_M |H - H_J M|^2 + \lambda |M - M_0|^2,

    M_0 the sum above (all ratios 1 where a unit is not homogeneous).

    Args:
        params: the parameters; what has an entry per unit goes along, as it did for `unit_spec`.
        spec: their groups, of `unit_spec`.
        similarity: the least cosine between units of a cluster. Where units are odd (tanh) those
            that point opposite ways are alike too.
        amplitude: units with |a| |w| of at most this share of the group's largest are removed.
        sizes: the groups to condense and the number of units each is to have, None for as many as
            similarity makes; by default all groups whose units can be split, by similarity.
        function: `function(params, *batch)`, as given to `unit_spec`, for the refit.
        batches: tuples of its further arguments.
        ridge: lambda, as a share of the mean square of the activations that stay.
        loss: `loss(outputs, *batch)`, the mean over a batch, for the comparison. A function may
            ignore what only the loss reads, such as labels.
        rebuild: from the new spec to the function of the smaller network, where `function` fixes
            the widths, as a Flax module does.
        fine_tune: from the small parameters and their spec to trained ones, before the comparison.

    Returns:
        The smaller network, its clusters and, with data, a comparison.

    Raises:
        ValueError: if a constant is out of range, a group is not known or its units cannot be
            split, there are fewer units of some amplitude than are asked for, units are not
            homogeneous and there is no data, or the tree is not one of the same model.

    Example:
        Two of three ReLUs look the same way.

        >>> import jax.numpy as jnp
        >>> from pfn_optax.landscape import condense
        >>> from pfn_optax.units import unit_spec
        >>> params = {
        ...     "in": jnp.asarray([[3.0, 1.0, 0.0], [0.0, 0.0, 2.0]]),
        ...     "out": jnp.asarray([[1.0], [6.0], [1.0]]),
        ... }
        >>> def predict(params, x):
        ...     return jnp.maximum(x @ params["in"], 0) @ params["out"]
        >>> spec = unit_spec(predict, params, jnp.ones((1, 2)))
        >>> small = condense(params, spec)
        >>> small.params["in"].tolist(), small.params["out"].tolist()
        ([[1.0, 0.0], [0.0, 2.0]], [[9.0], [1.0]])
        >>> small.clusters["in"].members
        ((1, 0), (2,))

    Reference:
        Zhang, Zhang, Luo, Xu, "Embedding principle of loss landscape of deep neural networks",
        NeurIPS 2021.
    """
    _require_constants(similarity, amplitude, ridge)
    spec.require_leaves(params)
    if sizes is None:
        sizes = dict.fromkeys(group.name for group in spec.groups if group.is_splittable)
    batches = list(batches)
    if (function is None) != (not batches):
        raise ValueError("condense needs function and batches together, got one without the other.")
    for name in sizes:
        _require_condensable(spec.group(name), has_data=function is not None)
    leaves = {path: np.asarray(leaf) for path, leaf in named_leaves(params)}
    clusters = {
        name: clusters_of(
            spec.group(name), leaves, similarity=similarity, amplitude=amplitude, size=size
        )
        for name, size in sizes.items()
    }
    mixings = {name: found.mixing for name, found in clusters.items()}
    if function is not None:
        refit = Refit(function, params, batches)
        mixings = {
            name: refit.mixing(name, found.kept, mixings[name], ridge)
            for name, found in clusters.items()
        }
    kept = {name: found.kept for name, found in clusters.items()}
    small, small_spec = merge_units(spec, params, kept, mixings)
    if fine_tune is not None:
        small = fine_tune(small, small_spec)
    comparison = None
    if function is not None:
        small_function = function if rebuild is None else rebuild(small_spec)
        comparison = compared((function, params), (small_function, small), batches, loss=loss)
    return Condensed(small, small_spec, clusters, comparison)


def _require_constants(similarity: float, amplitude: float, ridge: float) -> None:
    if not 0 < similarity <= 1:
        raise ValueError(f"similarity must be above 0 and at most 1, got {similarity}.")
    if not 0 <= amplitude < 1:
        raise ValueError(f"amplitude must be at least 0 and below 1, got {amplitude}.")
    if not 0 < ridge < float("inf"):
        raise ValueError(f"ridge must be positive, got {ridge}.")


def _require_condensable(group: Group, *, has_data: bool) -> None:
    if not group.is_splittable:
        raise ValueError(
            f"the units of group {group.name!r} cannot be merged: they are summed without weights "
            "(a norm or a softmax over them, a mean) or multiplied with each other; leave the "
            "group out of sizes."
        )
    if not (has_data or is_homogeneous(group)):
        raise ValueError(
            f"the units of group {group.name!r} are not homogeneous in their incoming weights "
            "(tanh, gelu, a bias that is not scaled along): parallel ones do not compute "
            "multiples of each other. Give function and batches, to refit what reads them."
        )
