"""One layer at a time: the diagonal blocks of the curvature."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from pfn_optax.paths import named_leaves


def layer_functions(
    function: Callable[..., Any], params: Any
) -> dict[str, tuple[Callable[..., Any], Any]]:
    """Splits a function of all parameters into functions of the parameters of one layer.

    The curvature of each is a diagonal block of that of the whole. A layer is what shares all but
    the last name of its path, as a kernel and its bias.

    Args:
        function: (params, *args) -> anything: a loss, or the model of `gauss_newton_operator`.
        params: the tree of parameters.

    Returns:
        By layer: the function of (its leaves, *args), and these leaves by their last name. What the
        functions hold of the other layers are the values in `params`.

    Example:
        >>> from pfn_optax.curvature import hessian_eigenvalues, layer_functions
        >>> params = {"first": {"w": 2.0}, "second": {"w": 3.0}}
        >>> layers = layer_functions(lambda p: (p["first"]["w"] * p["second"]["w"]) ** 2, params)
        >>> for name, (loss, own) in layers.items():
        ...     print(name, own, hessian_eigenvalues(loss, own))
        first {'w': 2.0} [18.]
        second {'w': 3.0} [8.]
    """
    leaves, structure = jax.tree.flatten(params)
    layers: dict[str, dict[str, int]] = {}
    for index, (path, _) in enumerate(named_leaves(params)):
        layers.setdefault("/".join(path[:-1]), {})["".join(path[-1:])] = index
    return {
        name: (
            _OfLayer(function, leaves, structure, positions),
            {last: leaves[index] for last, index in positions.items()},
        )
        for name, positions in layers.items()
    }


@dataclass(frozen=True, eq=False)
class _OfLayer:
    """The function with all other layers held fixed."""

    function: Callable[..., Any]
    leaves: list[Any]
    structure: Any
    positions: dict[str, int]

    def __call__(self, own: dict[str, Any], *args: Any) -> Any:
        leaves = list(self.leaves)
        for name, index in self.positions.items():
            leaves[index] = own[name]
        return self.function(jax.tree.unflatten(self.structure, leaves), *args)
