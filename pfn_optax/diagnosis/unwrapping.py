"""Modules and optimizers of Flax NNX, taken for the functions and arrays that are in them.

Flax is not imported: what is one of its objects was made by it, so that it is there.
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax

from pfn_optax.diagnosis.setup import TrainingSetup
from pfn_optax.paths import named_leaves


def is_nnx_optimizer(value: Any) -> bool:
    """Whether it is an `nnx.Optimizer`."""
    nnx: Any = sys.modules.get("flax.nnx")
    return nnx is not None and isinstance(value, nnx.Optimizer)


def unwrapped(setup: TrainingSetup) -> TrainingSetup:
    """Returns the setup with an optax transformation, its state, and parameters without a module.

    Of an `nnx.Optimizer`, the parameters are those that it trains, by its `wrt`.

    Raises:
        ValueError: if a state is given beside an `nnx.Optimizer`, or it is of other parameters.
    """
    nnx: Any = sys.modules.get("flax.nnx")
    if nnx is None:
        return setup
    trained = nnx.Param
    if is_nnx_optimizer(setup.optimizer):
        if setup.opt_state is not None:
            raise ValueError(
                "opt_state is given beside an nnx.Optimizer, which holds its own: leave opt_state "
                "out, or pass the optimizer's `.tx`."
            )
        whole = setup.optimizer
        trained = whole.wrt
        setup = replace(setup, optimizer=whole.tx, opt_state=whole.opt_state)
    if isinstance(setup.params, nnx.Module):
        setup = _without_module(nnx, setup, trained)
    return _with_fitting_state(nnx, setup)


def _without_module(nnx: Any, setup: TrainingSetup, trained: Any) -> TrainingSetup:
    """The parameters of a module taken out of it; what takes the module puts them back."""
    graph, params, rest = nnx.split(setup.params, trained, ...)

    def of_params(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda params, batch: function(
            nnx.merge(graph, params, rest, copy=True), batch
        )  # a copy: batch norm and dropout write into their module

    return replace(
        setup,
        loss=of_params(setup.loss),
        model=None if setup.model is None else of_params(setup.model),
        params=params,
    )


def _with_fitting_state(nnx: Any, setup: TrainingSetup) -> TrainingSetup:
    """The state in the tree that the optimizer makes for these parameters.

    An `nnx.Optimizer` keeps each array in a variable of another kind than the parameter's, which
    makes another tree of it.
    """

    def is_variable(node: Any) -> bool:
        return isinstance(node, nnx.Variable)

    trees = setup.params, setup.opt_state
    nodes = jax.tree.leaves(trees, is_leaf=is_variable)
    if setup.optimizer is None or setup.opt_state is None or not any(map(is_variable, nodes)):
        return setup
    expected = jax.eval_shape(setup.optimizer.init, setup.params)
    given, own = (
        {"/".join(path): leaf for path, leaf in named_leaves(tree)}
        for tree in (setup.opt_state, expected)
    )
    wrong = next((name for name in own | given if _shape(given, name) != _shape(own, name)), None)
    if wrong is not None:
        raise ValueError(
            "opt_state must be the state of this optimizer for these parameters: "
            f"{wrong} has the shape {_shape(given, wrong)} in it, and {_shape(own, wrong)} by "
            "optimizer.init(params)."
        )
    leaves = jax.tree.leaves(setup.opt_state)
    fitting = jax.tree.unflatten(jax.tree.structure(expected), leaves)
    return replace(setup, opt_state=fitting)


def _shape(leaves: dict[str, Any], name: str) -> tuple[int, ...] | None:
    return jax.numpy.shape(leaves[name]) if name in leaves else None
