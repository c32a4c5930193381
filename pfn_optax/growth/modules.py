"""Growth of Flax NNX modules, which hold their sizes as attributes."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pfn_optax.growth.grow import Grown, grow
from pfn_optax.growth.sizes import sizes_of
from pfn_optax.units import UnitSpec

Sizes = Mapping[type, Callable[[Any], Mapping[str, Any]]]


class GrownModule(NamedTuple):
    """A module with more units and the same function.

    Attributes:
        module: the wider module; the one given is as it was.
        spec: its groups of units.
        optimizer: an `nnx.Optimizer` of it, if one was given.
        optimizer_state: the optimizer's state for it, if one was given.
    """

    module: Any
    spec: UnitSpec
    optimizer: Any = None
    optimizer_state: Any = None


def grow_module(
    module: Any,
    spec: UnitSpec,
    group: str | Mapping[str, int],
    num_units: int | None = None,
    *,
    inputs: tuple[Any, ...],
    optimizer: Any = None,
    optimizer_state: Any = None,
    sizes: Sizes | None = None,
    **options: Any,
) -> GrownModule:
    """Adds units to groups of an NNX module, and runs it to see that its function is the same.

    Layers of Flax (Linear, LinearGeneral, Einsum, Conv, ConvTranspose, Embed, norms,
    MultiHeadAttention, recurrent cells, LoRA) get the attributes that hold their sizes from the
    shapes of their new variables. Modules of one's own that hold sizes need an entry in `sizes`,
    unless they take them from shapes as they run.

    Args:
        module: the module.
        spec: its groups: `unit_spec(function, params, ...)` where the parameters are
            `nnx.state(module, nnx.Param)`, or the pair of them and all other state.
        group: as for `grow`.
        num_units: as for `grow`.
        inputs: what to call the module with to compare its outputs: clones of both are called in
            the mode they are in, so choose evaluation (`module.eval()`) where they differ.
        optimizer: an `nnx.Optimizer` of the module for its `nnx.Param`, or an optax optimizer.
        optimizer_state: the state of the latter.
        sizes: by type of module, a function of a module that has its new variables but its old
            attributes, to the attributes that change.
        **options: of `grow`: `how`, `units`, `key` and so on.

    Returns:
        The new module and optimizer.

    Raises:
        ValueError: as for `grow`; if a module holds sizes in attributes that are not known, names
            both; if the new module cannot be called or its outputs are others.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from flax import nnx
        >>> from pfn_optax.growth import grow_module
        >>> from pfn_optax.units import unit_spec
        >>> module = nnx.Sequential(
        ...     nnx.Linear(3, 4, rngs=nnx.Rngs(0)), nnx.relu, nnx.Linear(4, 2, rngs=nnx.Rngs(1))
        ... )
        >>> graph, params = nnx.split(module)
        >>> x = jnp.ones((1, 3))
        >>> spec = unit_spec(lambda params, x: nnx.merge(graph, params)(x), params, x)
        >>> name = spec.groups[0].name
        >>> wide = grow_module(module, spec, name, 2, inputs=(x,), key=jax.random.key(0))
        >>> wide.module.layers[0].out_features, wide.module.layers[2].in_features
        (6, 6)
    """
    from flax import nnx

    given = taken_apart(module, optimizer, optimizer_state)
    grown = grow(
        given.params,
        spec,
        group,
        num_units,
        optimizer=given.optimizer,
        optimizer_state=given.optimizer_state,
        batch_stats=given.rest,
        **options,
    )
    new = rebuilt(module, grown, sizes or {})
    require_same_outputs(module, new, inputs, suspects(new, spec, grown.spec))
    if not isinstance(optimizer, nnx.Optimizer):
        return GrownModule(new, grown.spec, None, grown.optimizer_state)
    return GrownModule(new, grown.spec, rebuilt_optimizer(new, optimizer, grown.optimizer_state))


class Apart(NamedTuple):
    """A module and its optimizer, as `grow` takes them.

    Attributes:
        params: `nnx.state(module, nnx.Param)`.
        rest: all other state of the module; None if there is none.
        optimizer: the optax optimizer, or None.
        optimizer_state: its state, or None.
    """

    params: Any
    rest: Any
    optimizer: Any
    optimizer_state: Any


def taken_apart(module: Any, optimizer: Any, optimizer_state: Any = None) -> Apart:
    """Takes a module and an `nnx.Optimizer` (or an optax optimizer and its state) apart."""
    from flax import nnx

    _, params, rest = nnx.split(module, nnx.Param, ...)
    if isinstance(optimizer, nnx.Optimizer):
        optimizer_state = _as_of(jax.eval_shape(optimizer.tx.init, params), optimizer.opt_state)
        optimizer = optimizer.tx
    return Apart(params, rest if jax.tree.leaves(rest) else None, optimizer, optimizer_state)


def rebuilt(module: Any, network: Grown, sizes: Sizes) -> Any:
    """The module with other variables.

    Args:
        module: the module, which stays as it is.
        network: its `params` and `batch_stats` of other sizes.
        sizes: as for `grow_module`.

    Returns:
        Another module, of which the attributes that hold sizes follow its variables.

    Raises:
        ValueError: if there are attributes that are not known.
    """
    from flax import nnx

    graph, _, rest = nnx.split(module, nnx.Param, ...)
    new_rest = rest if network.batch_stats is None else network.batch_stats
    new = nnx.merge(graph, network.params, new_rest)
    _resize(new, {path: np.shape(leaf) for path, leaf in _variables(module)}, sizes)
    return new


def rebuilt_optimizer(module: Any, optimizer: Any, state: Any, tx: Any = None) -> Any:
    """An `nnx.Optimizer` of a module with this state, and the step of the old one."""
    from flax import nnx

    new = nnx.Optimizer(module, tx or optimizer.tx, wrt=nnx.Param)
    new.opt_state = _as_of(new.opt_state, state)
    new.step = jax.tree.map(jnp.asarray, optimizer.step)
    return new


def _as_of(like: Any, tree: Any) -> Any:
    """The leaves of one tree in the structure of another."""
    return jax.tree.unflatten(jax.tree.structure(like), jax.tree.leaves(tree))


def _variables(module: Any) -> list[tuple[tuple[Any, ...], Any]]:
    from flax import nnx

    return [
        (path, leaf[...])
        for path, leaf in nnx.to_flat_state(nnx.state(module))
        if _is_array(leaf[...])
    ]


def _is_array(value: Any) -> bool:
    return isinstance(value, (jax.Array, np.ndarray))


def _modules(module: Any) -> list[tuple[tuple[Any, ...], Any]]:
    """All modules, the inner ones first, so that the outer can read their sizes."""
    from flax import nnx

    found = [(path, node) for path, node in nnx.iter_graph(module) if isinstance(node, nnx.Module)]
    return sorted(found, key=lambda item: -len(item[0]))


def _resize(module: Any, old_shapes: dict, sizes: Sizes) -> None:
    """Sets the attributes that hold sizes."""
    changed = {path for path, leaf in _variables(module) if old_shapes[path] != np.shape(leaf)}
    for path, node in _modules(module):
        find = next((sizes[kind] for kind in type(node).__mro__ if kind in sizes), None)
        found = sizes_of(node) if find is None else find(node)
        own = [name for name in changed if name[: len(path)] == path and len(name) == len(path) + 1]
        if found is None:
            held = _held_sizes(node, {size for name in own for size in old_shapes[name]})
            if own and held:
                raise ValueError(
                    f"{_name(path, node)} holds {', '.join(held)}, and it is not known which of "
                    "them are sizes that change: pass sizes={"
                    f"{type(node).__name__}: lambda module: {{attribute: new value}}}}."
                )
            continue
        for name, value in found.items():
            if getattr(node, name) != value:
                setattr(node, name, value)


def _held_sizes(node: Any, sizes: set[int]) -> list[str]:
    """Attributes that may be sizes."""

    def is_size(value: Any) -> bool:
        if isinstance(value, tuple):
            return any(map(is_size, value))
        return (
            isinstance(value, int) and not isinstance(value, bool) and value > 1 and value in sizes
        )

    return [f"{name} = {value}" for name, value in vars(node).items() if is_size(value)]


def suspects(module: Any, old: UnitSpec, new: UnitSpec) -> str:
    """Attributes that are the old size of a group that has grown, in modules that are not known."""
    sizes = {
        before.size
        for before, after in zip(old.groups, new.groups, strict=True)
        if before.size != after.size
    }
    found = [
        f"{_name(path, node)}: {', '.join(held)}"
        for path, node in _modules(module)
        if sizes_of(node) is None and (held := _held_sizes(node, sizes))
    ]
    return f" These may be sizes: {'; '.join(found)}." if found else ""


def _name(path: tuple[Any, ...], node: Any) -> str:
    return f"{'.'.join(map(str, path)) or 'the module'} ({type(node).__name__})"


def require_same_outputs(module: Any, new: Any, inputs: tuple[Any, ...], hints: str) -> None:
    """Refuses a new module with other outputs; the hints say what it may hold."""
    from flax import nnx

    before = nnx.clone(module)(*inputs)
    try:
        after = nnx.clone(new)(*inputs)
    except Exception as error:  # whatever a module raises that has another size in mind
        raise ValueError(
            f"the module with its new sizes cannot be called.{hints} Say what changes "
            "by sizes={type of module: lambda module: {attribute: new value}}. "
            f"It says: {error}"
        ) from error
    for left, right in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        tolerance = float(jnp.finfo(left.dtype).eps) ** 0.5 if _is_float(left) else 0
        gap = np.abs(np.asarray(left) - np.asarray(right)).max() if np.size(left) else 0
        if not gap <= tolerance * max(np.abs(np.asarray(left)).max(), 1e-30):
            raise ValueError(
                f"the outputs of the module with its new sizes differ by {gap:.2g}: does it hold a "
                "number that depends on a width (1 / sqrt(n)), take a maximum over fresh units, "
                f"or draw random numbers (call module.eval() first)?{hints}"
            )


def _is_float(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.inexact)
