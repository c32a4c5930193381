"""Batch norm after a merge: the running statistics, measured again."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from pfn_optax.align.channels import by_depth
from pfn_optax.align.moments import measure, sites_on
from pfn_optax.paths import named_leaves


def reestimate_batch_stats(
    function: Callable[..., Any], variables: Any, batches: Iterable[Any]
) -> Any:
    """Returns the variables with the running statistics of every batch norm measured on data.

    The means of running statistics are not those of the merged model: its units vary less than
    those of the models, and without this even a good merge looks like a bad one. The statistics are
    exact: those of all batches taken as one, `mean` and (biased) `var` of what the batch norm reads
    when all those before it have their new statistics. The data is read once for each batch norm on
    the longest way through the model, in evaluation mode.

    Args:
        function: `function(variables, *batch)`, in evaluation mode (running statistics are used).
            Compiled once for each function object: pass the same one again, not a new lambda.
        variables: parameters and batch statistics, the latter in leaves named `mean` and `var` side
            by side, as Flax has them. Linen: the variables; NNX: the state of `nnx.split(model)`.
        batches: tuples of arrays, the arguments of the function after the variables; a list, or
            anything that can be read again and again.

    Returns:
        A tree like variables.

    Raises:
        ValueError: if no batch norm is found, one is used several times, there is no batch, or
            values are not finite.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from flax import linen as nn
        >>> from pfn_optax.align import reestimate_batch_stats
        >>> model = nn.BatchNorm(use_running_average=True)
        >>> x = jnp.asarray([[1.0], [3.0]])
        >>> variables = model.init(jax.random.key(0), x)
        >>> measured = reestimate_batch_stats(model.apply, variables, [(x,), (x + 2,)])
        >>> measured["batch_stats"]["mean"].item(), measured["batch_stats"]["var"].item()
        (3.0, 2.0)

    Reference:
        Izmailov et al., "Averaging weights leads to wider optima and better generalization",
        UAI 2018 (there as an average over batches).
    """
    _, norms, uses = sites_on(function, variables, batches)
    read = {path for path in uses if (*path[:-1], "var") in uses and path[-1:] == ("mean",)}
    for path in sorted(read - {norm.mean for norm in norms}):
        raise ValueError(
            f"{'/'.join(path)!r} is not subtracted from a value with these channels, outside of "
            "loops and branches, as a batch norm does it: its statistics cannot be measured."
        )
    if not norms:
        raise ValueError(
            "the function has no batch norm with running statistics in its first argument: call it "
            "in evaluation mode, with leaves named 'mean' and 'var'; without batch norm: repair()."
        )
    for norm in norms:
        if uses[norm.mean] > 1:
            raise ValueError(
                f"{norm.name!r} is used {uses[norm.mean]} times: its statistics differ from use to "
                "use."
            )
    for level in by_depth(norms):
        moments = measure(function, variables, batches)
        values = {}
        for norm in level:
            values[norm.mean] = moments[norm.name].mean
            values[norm.variance] = moments[norm.name].variance
        variables = with_leaves(variables, values)
    return variables


def with_leaves(tree: Any, values: dict[tuple[str, ...], np.ndarray]) -> Any:
    """A tree with other values in some leaves, their shapes and dtypes kept."""
    leaves, treedef = jax.tree.flatten(tree)
    for number, (path, leaf) in enumerate(named_leaves(tree)):
        if path in values:
            leaves[number] = jax.numpy.asarray(values[path].reshape(leaf.shape), leaf.dtype)
    return treedef.unflatten(leaves)
