"""The flow graph of a model, read off its loss."""

import math
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from pfn_optax.graph.flow_graph import Edge, FlowGraph
from pfn_optax.graph.rules import GraphRules
from pfn_optax.graph.skeleton import Skeleton, skeleton
from pfn_optax.partition import Partition, partition
from pfn_optax.paths import Path, named_leaves, natural_key
from pfn_optax.tracing import Constant, Equation, Traced, interpret, trace


class GraphWarning(UserWarning):
    """Something about a traced graph that its user should know."""


def graph_from_loss(
    loss: Callable[..., Any],
    params: Any,
    *args: Any,
    has_aux: bool = False,
    axes: Mapping[str, int] | None = None,
) -> FlowGraph:
    """Derives how the layers of a model are joined, by tracing its loss.

    Every place where a layer's matrix meets data in a product (dense, convolution, embedding) is an
    edge with the layer's name; tied weights stand on several. Where paths join (residual sums,
    concatenations, attention) there is a junction, with identity edges of infinite capacity that
    know their width. Biases, the vectors of normalisation layers and penalties on weights make no
    edge. The body of a loop counts once, or as many times as data needs to reach all of its state:
    a recurrent matrix lies beside the input matrix, not in a cycle.

    An argument is data if it meets a layer before it meets anything computed by layers; targets,
    masks and batch statistics make no path.

    Args:
        loss: function of (params, *args) that returns a scalar.
        params: parameter tree; arrays, or `jax.ShapeDtypeStruct`.
        *args: the batch and whatever else the loss takes; nothing is computed, shapes are enough.
        has_aux: whether the loss returns (scalar, anything).
        axes: names and sizes of the mapped axes that the loss's collectives (`jax.lax.pmean`) use.

    Returns:
        The graph, sorted and hashable, with `warnings` and `unreached`; for `pfn(graph=...)`.

    Raises:
        ValueError: if the loss is not one number, or depends on no data through any layer.
        TypeError: if an argument is not an array.

    Warns:
        GraphWarning: for parameters on which the loss does not depend, parameters raveled into one
            vector, operations that cannot be looked into, and NaN.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from pfn_optax import graph_from_loss
        >>> def loss(params, x, y):
        ...     h = x @ params["stem"]
        ...     h = h + jax.nn.relu(h @ params["a"]) @ params["b"]
        ...     return jnp.mean((h @ params["head"] - y) ** 2)
        >>> shapes = {"stem": (8, 4), "a": (4, 4), "b": (4, 4), "head": (4, 1)}
        >>> params = {name: jnp.ones(shape) for name, shape in shapes.items()}
        >>> graph = graph_from_loss(loss, params, jnp.ones((2, 8)), jnp.ones((2, 1)))
        >>> for edge in graph.edges:
        ...     print(edge.tail, "->", edge.head, edge.layer)
        a -> stem a
        b+ -> a b
        b+ -> stem None
        loss -> b+ head
        stem -> data stem
    """
    layout = partition(params)
    drawn = draw(loss, params, *args, layout=layout, has_aux=has_aux, axes=axes)
    layer_of = {layer.path: layer.name for layer in layout.layers}
    names = node_names(drawn.skeleton, layer_of)
    unit = math.gcd(*(link.positions for link in drawn.skeleton.links)) or 1
    edges = tuple(
        Edge(
            names[link.tail],
            names[link.head],
            layer=layer_of[link.use.path] if link.use else None,
            width=math.inf if link.use else float(link.width),
            positions=link.positions // unit,
        )
        for link in drawn.skeleton.links
    )
    for text in drawn.warnings:
        warnings.warn(text, GraphWarning, stacklevel=2)
    return FlowGraph(edges, warnings=drawn.warnings, unreached=drawn.unreached)


class Drawn(NamedTuple):
    """What tracing a loss finds out.

    Attributes:
        skeleton: the links between loss and data.
        warnings: what was uncertain.
        unreached: paths of the parameters on which the loss does not depend.
    """

    skeleton: Skeleton
    warnings: tuple[str, ...]
    unreached: tuple[str, ...]


def draw(
    loss: Callable[..., Any],
    params: Any,
    *args: Any,
    layout: Partition,
    has_aux: bool,
    axes: Mapping[str, int] | None,
) -> Drawn:
    """Traces a loss into the skeleton of its graph; arguments as `graph_from_loss`."""

    def scalar(params, *args):
        result = loss(params, *args)
        value = result[0] if has_aux else result
        if jax.tree.structure(value) != jax.tree.structure(0) or jnp.ndim(value) != 0:
            kind = jax.tree.map(jnp.shape, value)
            raise ValueError(
                f"the loss must return one number, got {type(value).__name__} with shape {kind}: "
                "reduce it (jnp.mean), or pass has_aux=True if it returns (loss, anything)."
            )
        return value

    traced = trace(scalar, params, *args, axes=axes)
    shapes = {path: shape for path, shape in _shapes(params).items() if path in _matrices(layout)}
    num_params = len(named_leaves(params))
    for takes_constants in (False, True):
        rules = GraphRules(shapes, takes_constants=takes_constants)
        inputs = [
            rules.parameter(path[1:]) if number < num_params else rules.argument(path, variable)
            for number, (path, variable) in enumerate(
                zip(traced.paths, traced.program.inputs, strict=True)
            )
        ]
        [value] = interpret(traced.program, inputs, constant=rules.constant, apply=rules.apply)
        found = None if value.node is None else skeleton(rules.sketch, value.node)
        if found is not None and found.links:
            unreached = unreached_leaves(traced, num_params)
            texts = (*_nan_warnings(params, args), *_rule_warnings(rules, found))
            return Drawn(found, (*texts, *_unreached_warning(unreached)), unreached)
    raise ValueError(
        "the loss depends on no data through any layer: none of its arguments meets a matrix of "
        f"the parameters ({', '.join(layer.name for layer in layout.layers[:5]) or 'no layers'}). "
        "Pass the batch as arguments after params: graph_from_loss(loss, params, batch)."
    )


def _matrices(layout: Partition) -> set[Path]:
    return {layer.path for layer in layout.layers}


def _shapes(tree: Any) -> dict[Path, tuple[int, ...]]:
    return {path: tuple(jnp.shape(leaf)) for path, leaf in named_leaves(tree)}


def node_names(skeleton: Skeleton, layer_of: Mapping[Path, str]) -> dict[int, str]:
    """Names the nodes by the layer whose output they are; junctions by the last one, with a `+`.

    Args:
        skeleton: the skeleton.
        layer_of: name of the layer of each matrix.

    Returns:
        The name of each node, all different.
    """
    ways_out = defaultdict(list)
    for link in skeleton.links:
        ways_out[link.tail].append(link)
    names = {skeleton.sink: "data", skeleton.source: "loss"}
    counts: Counter[str] = Counter(("data", "loss"))
    for node in sorted(ways_out):
        if node in names:
            continue
        layers = [layer_of[link.use.path] for link in ways_out[node] if link.use]
        if len(ways_out[node]) == 1 and layers:
            name = layers[0]
        else:
            last = max(link.head for link in ways_out[node])
            name = (layers[-1] if layers else names[last].split(":")[0].rstrip("+")) + "+"
        counts[name] += 1
        names[node] = name if counts[name] == 1 else f"{name}:{counts[name]}"
    return names


def unreached_leaves(traced: Traced, num_params: int) -> tuple[str, ...]:
    """Returns the paths of the parameters that no gradient of the loss can reach.

    Args:
        traced: the loss, a function of the parameters first.
        num_params: how many of its inputs are parameters.
    """

    def apply(equation: Equation, masks: list[int]) -> list[int]:
        if equation.primitive == "loop":
            consts = masks[: equation.num_consts]
            stop = equation.num_consts + equation.num_carry
            carry = masks[equation.num_consts : stop]
            while True:
                results = inside(equation, [*consts, *carry, *masks[stop:]])
                grown = [a | b for a, b in zip(carry, results, strict=False)]
                if grown == carry:
                    return results
                carry = grown
        if equation.primitive == "branch":
            results = [inside(equation, masks[1:], body) for body in range(len(equation.bodies))]
            return [_union(column) for column in zip(*results, strict=True)]
        mask = 0 if equation.primitive == "stop_gradient" else _union(masks)
        return [mask if _is_inexact(output.dtype) else 0 for output in equation.outputs]

    def inside(equation: Equation, masks: list[int], body: int = 0) -> list[int]:
        return interpret(equation.bodies[body], masks, constant=_no_mask, apply=apply)

    inputs = [1 << n if n < num_params else 0 for n in range(len(traced.paths))]
    [reached] = interpret(traced.program, inputs, constant=_no_mask, apply=apply)
    paths = (
        path[1:]
        for number, path in enumerate(traced.paths[:num_params])
        if not reached >> number & 1 and _is_inexact(traced.program.inputs[number].dtype)
    )
    return tuple("/".join(path) for path in sorted(paths, key=natural_key))


def _no_mask(_: Constant) -> int:
    return 0


def _union(masks: Sequence[int]) -> int:
    union = 0
    for mask in masks:
        union |= mask
    return union


def _is_inexact(dtype: Any) -> bool:
    return jnp.issubdtype(dtype, jnp.inexact)


def _unreached_warning(unreached: tuple[str, ...]) -> list[str]:
    if not unreached:
        return []
    return [
        f"the loss does not depend on {listed(unreached)}: no gradient reaches them. Leave them "
        "out of the optimizer (optax.masked, optax.partition), or use them in the model."
    ]


def _rule_warnings(rules: GraphRules, found: Skeleton) -> list[str]:
    texts = []
    if rules.raveled:
        names = listed(sorted("/".join(path) or "params" for path in rules.raveled))
        texts.append(
            f"{names} is a vector that the model cuts into matrices: its layers cannot be told "
            "apart. Pass the tree that it was raveled from, and ravel inside the loss."
        )
    for primitive, scope, layers in dict.fromkeys(rules.opaque):
        place = f" in {scope}" if scope else ""
        entering = listed(["/".join(path) for path in layers])
        what = f", which {entering} enter{'s' if len(layers) == 1 else ''}" if layers else ""
        texts.append(
            f"{primitive}{place} cannot be looked into{what}: its outputs are taken to depend on "
            "all of its inputs. Trace the loss with a plain JAX version of it for a truer graph."
        )
    if found.bypassing:
        names = listed([_argument(path) for path in found.bypassing])
        texts.append(
            f"{names} also reaches the loss through no layer (an identity around the model, or an "
            "input that is its own target): that path is left out, since no parameter is on it."
        )
    return texts


def _nan_warnings(params: Any, args: tuple[Any, ...]) -> list[str]:
    found = [("params", path, leaf) for path, leaf in named_leaves(params)]
    found += [
        (f"args[{number}]", path, leaf)
        for number, arg in enumerate(args)
        for path, leaf in named_leaves(arg)
    ]
    names = ["/".join((kind, *path)) for kind, path, leaf in found if _has_nan(leaf)]
    if not names:
        return []
    return [
        f"{listed(names)} holds NaN: the graph reads shapes only and stands, but training from "
        "here will not. Look for the operation that made it (jax.debug_nans)."
    ]


def _has_nan(leaf: Any) -> bool:
    is_concrete = isinstance(leaf, (jax.Array, np.ndarray, float)) and not isinstance(leaf, Tracer)
    if not (is_concrete and _is_inexact(jnp.result_type(leaf))):
        return False
    return bool(np.isnan(np.asarray(leaf)).any())  # on the host: also within a jitted function


def _argument(path: Path) -> str:
    number, *rest = path
    return "/".join((f"args[{int(number) - 1}]" if number.isdigit() else number, *rest))


def listed(names: Sequence[str], limit: int = 5) -> str:
    """Quotes the first few of many names."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(map(repr, names[:limit])) + more
