"""Which values of a program are tapped, and the program run with something done at each."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from pfn_optax.partition import Layer, partition
from pfn_optax.paths import Path, named_leaves
from pfn_optax.propagation.elementwise import BOUNDS, Axes
from pfn_optax.propagation.sites import Site, SiteRules
from pfn_optax.tracing import Equation, Program, Traced, interpret, trace

Measure = Callable[["TappedLayer", jax.Array, jax.Array, jax.Array], Any]
Injection = Callable[["TappedLayer", jax.Array, Any], jax.Array]


@dataclass(frozen=True, eq=False)
class TappedLayer:
    """A layer and where it is tapped.

    Attributes:
        name: the layer's name, as in `partition`; with `:2` where it is applied again.
        paths: key paths of the matrices.
        shape: of the preactivations, units last; inside of loops of one round.
        activation: name of the activation's last operation; None if the layer has none.
        rounds: numbers of rounds of the loops around it, from the outside.
        is_stacked: whether these rounds are layers, not time: whether the parameters differ.
        dtype: of the preactivations.
    """

    name: str
    paths: tuple[str, ...]
    shape: tuple[int, ...]
    activation: str | None
    rounds: tuple[int, ...]
    is_stacked: bool
    dtype: Any
    site: Site

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The range of the activation, where it is known and finite."""
        return BOUNDS.get(self.activation or "")

    @property
    def rules(self) -> tuple[Equation, ...]:
        """Functions with a derivative rule of their own that the layer is inside of."""
        return tuple(one for one in self.site.within if one.primitive == "rule")


@dataclass(frozen=True, eq=False)
class TapPlan:
    """A traced function and its taps.

    Attributes:
        traced: the function.
        layers: the taps.
        missed: layers without a tap, and why.
    """

    traced: Traced
    layers: tuple[TappedLayer, ...]
    missed: Mapping[str, str]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the tapped layers."""
        return tuple(layer.name for layer in self.layers)

    def fits(self, *args: Any) -> bool:
        """Whether arguments are of the shapes that were traced."""
        inputs = self.traced.program.inputs
        leaves = jax.tree.leaves(args)
        return len(leaves) == len(inputs) and all(
            jnp.shape(leaf) == one.shape and _dtype(leaf) == one.dtype
            for leaf, one in zip(leaves, inputs, strict=True)
        )


def plan_taps(
    function: Callable[..., Any], params: Any, *args: Any, layers: Sequence[str] | None = None
) -> TapPlan:
    """Finds the places of a function to tap; arguments as `activation_taps`.

    Raises:
        ValueError: if there are none, or not one that is asked for; if what the function returns
            is not made of arrays.
    """
    try:
        traced = trace(function, params, *args, keep_rules=True)
    except TypeError as error:
        if "valid JAX type" not in str(error):
            raise
        raise ValueError(
            "a tapped function must take and return trees of arrays; close over what is not, and "
            f"leave it out of the output. JAX says: {error}"
        ) from error
    known = {layer.path: layer for layer in partition(params).layers if isinstance(layer, Layer)}
    num_params = len(named_leaves(params))
    for takes_constants in (False, True):
        rules = SiteRules(known, takes_constants)
        inputs = [
            rules.parameter(path[1:]) if number < num_params else rules.argument(variable)
            for number, (path, variable) in enumerate(
                zip(traced.paths, traced.program.inputs, strict=True)
            )
        ]
        rules.find(traced.program, inputs)
        if rules.sites:
            break
    missed = _missed(rules, known)
    if not rules.sites:
        found = "; ".join(f"{name} {why}" for name, why in missed.items())
        raise ValueError(
            "no layer is applied to data: taps are where a matrix of the parameters meets an "
            f"argument in a product, convolution or embedding. Found: {found or 'no parameters'}. "
            "Pass the function of (params, batch) itself, with the batch as an argument."
        )
    every = {layer.name: layer for layer in _tapped(rules.sites, known)}
    unknown = [name for name in layers or () if name not in every]
    if unknown:
        reason = f" ({missed[unknown[0]]})" if unknown[0] in missed else ""
        raise ValueError(f"no tap at {unknown[0]!r}{reason}; there are {', '.join(every)}.")
    names = every if layers is None else dict.fromkeys(layers)
    return TapPlan(traced, tuple(every[name] for name in names), missed)


def _dtype(leaf: Any) -> Any:
    return leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf)


def _missed(rules: SiteRules, known: Mapping[Path, Layer]) -> dict[str, str]:
    tapped = {path for site in rules.sites for path in site.paths}
    return {
        layer.name: rules.missed.get(path, "meets no data")
        for path, layer in known.items()
        if path not in tapped
    }


def _tapped(sites: Sequence[Site], known: Mapping[Path, Layer]) -> list[TappedLayer]:
    counts: Counter[str] = Counter()
    layers = []
    for site in sites:
        name = "+".join(known[path].name for path in site.paths)
        counts[name] += 1
        loops = [one for one in site.within if one.primitive == "loop"]
        layers.append(
            TappedLayer(
                name=name if counts[name] == 1 else f"{name}:{counts[name]}",
                paths=tuple("/".join(path) for path in site.paths),
                shape=jax.eval_shape(
                    lambda x, axes=site.pre_axes: units_last(x, axes),
                    jax.ShapeDtypeStruct(site.pre.shape, site.pre.dtype),
                ).shape,
                activation=site.activation,
                rounds=tuple(one.params["length"] for one in loops),
                is_stacked=not site.sliced.isdisjoint(site.paths),
                dtype=site.pre.dtype,
                site=site,
            )
        )
    return layers


def units_last(value: jax.Array, axes: Axes) -> jax.Array:
    """Makes the axes of units one, the last."""
    value = jnp.moveaxis(value, axes, range(value.ndim - len(axes), value.ndim))
    return value.reshape(*value.shape[: value.ndim - len(axes)], -1)


def run_taps(
    plan: TapPlan,
    args: tuple[Any, ...],
    measure: Measure,
    *,
    inject: Injection | None = None,
    slots: Mapping[str, Any] | None = None,
) -> tuple[Any, dict[str, Any]]:
    """Runs the function.

    Args:
        plan: the function and its taps.
        args: its arguments.
        measure: what is computed of (layer, what its matrix is applied to, pre, post).
        inject: what the preactivation is replaced by, a function of (layer, pre, its slot).
        slots: for each tap what `inject` is given; inside of loops with leading axes of rounds.

    Returns:
        The output, and what was measured by the name of the layer.
    """
    run = _Run(plan, measure, inject)
    outputs, found = run.program(plan.traced.program, jax.tree.leaves(args), dict(slots or {}))
    return jax.tree.unflatten(plan.traced.output_tree, outputs), found


class _Run:
    def __init__(self, plan: TapPlan, measure: Measure, inject: Injection | None):
        self._measure, self._inject = measure, inject
        self._pre: dict[int, list[TappedLayer]] = {}
        self._post: dict[int, list[TappedLayer]] = {}
        self._given: dict[int, list[TappedLayer]] = {}
        self._entered: dict[int, list[str]] = {}  # loops and rules to look into: taps in them
        for layer in plan.layers:
            site = layer.site
            self._given.setdefault(id(site.equation), []).append(layer)
            self._pre.setdefault(id(site.pre), []).append(layer)
            self._post.setdefault(id(site.post or site.pre), []).append(layer)
            for equation in site.within:
                self._entered.setdefault(id(equation), []).append(layer.name)

    def program(
        self, program: Program, inputs: Sequence[Any], slots: Mapping[str, Any]
    ) -> tuple[list[Any], dict[str, Any]]:
        found: dict[str, Any] = {}
        given: dict[str, jax.Array] = {}
        pres: dict[str, jax.Array] = {}

        def apply(equation: Equation, operands: list[Any]) -> list[Any]:
            for layer in self._given.get(id(equation), ()):
                given[layer.name] = operands[layer.site.operand]
            results = self._results(equation, operands, slots, found)
            for index, variable in enumerate(equation.outputs):
                for layer in self._pre.get(id(variable), ()):
                    if self._inject is not None:
                        results[index] = self._inject(layer, results[index], slots[layer.name])
                    pres[layer.name] = units_last(results[index], layer.site.pre_axes)
                for layer in self._post.get(id(variable), ()):
                    axes = layer.site.post_axes if layer.site.post else layer.site.pre_axes
                    own = given.pop(layer.name), pres.pop(layer.name)
                    found[layer.name] = self._measured(
                        layer, *own, units_last(results[index], axes)
                    )
            return results

        outputs = interpret(program, inputs, constant=lambda c: c.value, apply=apply)
        return outputs, found

    def _measured(
        self, layer: TappedLayer, given: jax.Array, pre: jax.Array, post: jax.Array
    ) -> Any:
        try:
            return self._measure(layer, given, pre, post)
        except (TypeError, ValueError) as error:
            error.add_note(f"At the tap of {layer.name!r}, preactivations of shape {pre.shape}.")
            raise

    def _results(
        self,
        equation: Equation,
        operands: list[Any],
        slots: Mapping[str, Any],
        found: dict[str, Any],
    ) -> list[Any]:
        inside = self._entered.get(id(equation))
        if inside is None:
            assert equation.run is not None
            return list(equation.run(*operands))
        own = {name: slots[name] for name in inside if name in slots}
        if equation.primitive == "rule":
            results, more = self.program(equation.bodies[0], operands, own)
        else:
            results, more = self._scan(equation, operands, own)
        found.update(more)
        return results

    def _scan(
        self, equation: Equation, operands: list[Any], slots: Mapping[str, Any]
    ) -> tuple[list[Any], dict[str, Any]]:
        """The loop again, with the measures of each round beside what it stacks."""
        start, stop = equation.num_consts, equation.num_consts + equation.num_carry
        consts = operands[:start]

        def body(carry, given):
            slices, own = given
            results, found = self.program(equation.bodies[0], [*consts, *carry, *slices], own)
            return results[: len(carry)], (results[len(carry) :], found)

        options = {name: equation.params[name] for name in ("length", "reverse", "unroll")}
        given = operands[stop:], dict(slots)
        carry, (stacked, found) = jax.lax.scan(body, operands[start:stop], given, **options)
        return [*carry, *stacked], found
