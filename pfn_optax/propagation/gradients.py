"""Gradients over depth: their norms, how fast these grow or shrink, and where numbers broke."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pfn_optax.paths import Path, named_leaves, natural_key


class FirstNonfinite(NamedTuple):
    """Where the first NaN or infinity of a tree is.

    Attributes:
        is_finite: bool[], whether there is none.
        index: i32[], of the leaf in `leaf_names`; -1 if there is none.
    """

    is_finite: jax.Array
    index: jax.Array


def leaf_names(tree: Any) -> tuple[str, ...]:
    """Returns the paths of the leaves in natural order, `Conv_2` before `Conv_10`.

    Args:
        tree: parameters, gradients, activations.

    Returns:
        Names such as `"Dense_0/kernel"`.

    Example:
        >>> from pfn_optax.propagation import leaf_names
        >>> leaf_names({"Dense_10": {"kernel": 1.0}, "Dense_2": {"kernel": 1.0}})
        ('Dense_2/kernel', 'Dense_10/kernel')
    """
    return tuple("/".join(names) for names, _ in _natural_leaves(tree))


def layer_names(tree: Any) -> tuple[str, ...]:
    """Returns the layers in natural order; a layer is what shares all but the last name of a path.

    Args:
        tree: parameters or gradients.

    Returns:
        Names such as `"Dense_0"`.

    Example:
        >>> from pfn_optax.propagation import layer_names
        >>> layer_names({"Dense_0": {"kernel": 1.0, "bias": 1.0}, "Dense_1": {"kernel": 1.0}})
        ('Dense_0', 'Dense_1')
    """
    return tuple(_layers(tree))


def gradient_profile(gradients: Any, *, layers: Sequence[str] | None = None) -> jax.Array:
    """Returns the norm of the gradients of each layer, kernel and bias together.

    Args:
        gradients: tree of real floating leaves; others are left out.
        layers: names of layers from the data to the loss; by default `layer_names`, which is their
            depth where layers are numbered.

    Returns:
        f32[num_layers] (f64 with float64 leaves), whatever the scale: neither squares of small
        gradients vanish nor those of large ones overflow.

    Raises:
        ValueError: if there is no layer, or one that is named.

    Example:
        >>> import jax.numpy as jnp
        >>> from pfn_optax.propagation import gradient_profile
        >>> first, second = {"kernel": jnp.ones((2, 2))}, {"kernel": jnp.ones((3, 3))}
        >>> print(gradient_profile({"Dense_0": first, "Dense_1": second}))
        [2. 3.]
    """
    known = real_layers(gradients)
    if not known:
        raise ValueError("there are no real floating leaves: give the tree of gradients.")
    missing = [name for name in layers or () if name not in known]
    if missing:
        raise ValueError(f"no layer {missing[0]!r} with gradients; there are {', '.join(known)}.")
    return jnp.stack([_norm(known[name]) for name in (known if layers is None else layers)])


def log_slope(norms: Any) -> jax.Array:
    r"""Returns by how much norms grow per layer, in nats, by least squares on their logarithms.

    .. math:: \ln |g_l| \approx a + s \, l

    Of a gradient profile in the order of depth, s > 0 says that gradients vanish on their way from
    the loss to the data, s < 0 that they explode, by a factor of e in 1 / |s| layers.

    Args:
        norms: f[num_layers]. Those that are zero or not finite are left out.

    Returns:
        f[]; NaN if fewer than two are left.

    Raises:
        ValueError: if they are not a vector of real floating numbers.

    Example:
        >>> import jax.numpy as jnp
        >>> from pfn_optax.propagation import log_slope
        >>> print(log_slope(jnp.exp(0.5 * jnp.arange(6.0))).round(4))
        0.5
    """
    if jnp.ndim(norms) != 1 or not jnp.issubdtype(jnp.result_type(norms), jnp.floating):
        raise ValueError(
            f"norms must be a vector of real floating numbers, one a layer, got shape "
            f"{jnp.shape(norms)} and dtype {jnp.result_type(norms)}."
        )
    norms = jnp.asarray(norms, jnp.promote_types(jnp.result_type(norms), jnp.float32))
    is_known = (norms > 0) & jnp.isfinite(norms)
    weights = is_known.astype(norms.dtype)
    num = jnp.maximum(weights.sum(), 1)
    depths = jnp.arange(len(norms), dtype=norms.dtype)
    depths = weights * (depths - jnp.sum(weights * depths) / num)
    spread = jnp.sum(depths**2)
    slope = jnp.sum(depths * jnp.log(jnp.where(is_known, norms, 1))) / jnp.where(
        spread == 0, 1, spread
    )
    return jnp.where(spread == 0, jnp.nan, slope)


def update_ratios(updates: Any, params: Any) -> Any:
    """Returns |update| / |parameters| of each leaf; about 1e-3 is usual in training.

    Args:
        updates: what `optax.apply_updates` adds.
        params: the parameters, a tree like the updates.

    Returns:
        A tree of f32[] (f64[] of float64): 0 if the update is zero, infinite if the parameters
        alone are; NaN for leaves that are not real and floating.

    Raises:
        ValueError: if the trees differ.

    Example:
        >>> import jax.numpy as jnp
        >>> from pfn_optax.propagation import update_ratios
        >>> print(update_ratios({"w": 0.01 * jnp.ones(4)}, {"w": jnp.ones(4)})["w"].round(4))
        0.01
    """
    if jax.tree.structure(updates) != jax.tree.structure(params):
        raise ValueError(
            f"updates and parameters must be trees alike, got {jax.tree.structure(updates)} and "
            f"{jax.tree.structure(params)}."
        )
    return jax.tree.map(_ratio, updates, params)


def first_nonfinite(tree: Any) -> FirstNonfinite:
    """Finds the first leaf, in natural order, with a NaN or infinity, inside of jit too.

    Args:
        tree: gradients, parameters, activations in the order of `leaf_names`; may be empty.

    Returns:
        The `FirstNonfinite`; on the host, `leaf_names(tree)[index]` names the leaf.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from pfn_optax.propagation import first_nonfinite, leaf_names
        >>> tree = {"layer_2": jnp.asarray([1.0, jnp.nan]), "layer_10": jnp.asarray([jnp.inf])}
        >>> found = jax.jit(first_nonfinite)(tree)
        >>> print(found.is_finite, leaf_names(tree)[found.index])
        False layer_2
    """
    broken = [~jnp.isfinite(leaf).all() for _, leaf in _natural_leaves(tree)]
    if not broken:
        return FirstNonfinite(jnp.asarray(True), jnp.int32(-1))
    flags = jnp.stack(broken)
    is_finite = ~flags.any()
    return FirstNonfinite(is_finite, jnp.where(is_finite, -1, jnp.argmax(flags)).astype(jnp.int32))


def real_layers(tree: Any) -> dict[str, list[Any]]:
    """Returns the real floating leaves of each layer that has one, in natural order."""
    found = {
        name: [leaf for leaf in leaves if _is_real(leaf)] for name, leaves in _layers(tree).items()
    }
    return {name: leaves for name, leaves in found.items() if leaves}


def _natural_leaves(tree: Any) -> list[tuple[Path, Any]]:
    return sorted(named_leaves(tree), key=lambda pair: natural_key(pair[0]))


def _layers(tree: Any) -> dict[str, list[Any]]:
    layers: dict[str, list[Any]] = {}
    for names, leaf in _natural_leaves(tree):
        layers.setdefault("/".join(names[:-1] or names), []).append(leaf)
    return dict(sorted(layers.items(), key=lambda item: natural_key(tuple(item[0].split("/")))))


def _is_real(leaf: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(leaf), jnp.floating)


def _norm(leaves: Sequence[Any]) -> jax.Array:
    """Of all entries, scaled by the largest."""
    is_double = any(jnp.result_type(leaf) == jnp.float64 for leaf in leaves)
    dtype = jnp.float64 if is_double else jnp.float32
    wide = [jnp.asarray(leaf, dtype) for leaf in leaves if jnp.size(leaf)]
    if not wide:
        return jnp.zeros((), dtype)
    largest = jnp.max(jnp.stack([jnp.max(jnp.abs(leaf)) for leaf in wide]))
    is_plain = (largest > 0) & jnp.isfinite(largest)
    scale = jnp.where(is_plain, largest, 1.0)
    squares = jnp.stack([jnp.sum((leaf / scale) ** 2) for leaf in wide])
    return scale * jnp.sqrt(jnp.sum(squares))


def _ratio(update: Any, params: Any) -> jax.Array:
    if not (_is_real(update) and _is_real(params)):
        return jnp.full((), jnp.nan)
    change, size = _norm([update]), _norm([params])
    ratio = change / jnp.where(size == 0, 1.0, size)
    return jnp.where((size == 0) & (change > 0), jnp.inf, ratio)
