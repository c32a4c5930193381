"""The hidden units of a chain of layers, told from names and shapes; refused where they cannot be.

A checkpoint does not say how its layers are joined. For a plain chain (dense, convolution, norms
with one entry per unit) names and shapes say enough, and what was assumed is said. Whatever might
have a skip connection, shared units or more than one possible order is refused.
"""

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from experiments.errors import AmbiguousUnitsError
from pfn_optax.paths import Path, named_leaves, natural_key
from pfn_optax.units import Member, UnitSpec, spec_from_axes

_WEIGHTS = {"weight", "kernel", "w", "W"}
_BIASES = {"bias", "b"}
_PER_UNIT = {"scale", "gamma", "beta", "offset", "mean", "var", "running_mean", "running_var"}
_COLLECTIONS = {"params", "batch_stats", "state_dict", "model", "module"}
_BRANCHED = re.compile(
    r"(^|[^a-z])(res|gn)|shortcut|skip|down_?sample|attn|attention|query|key|value|qkv|embed|lstm"
    r"|gru|rnn|group|transpose|deconv|depthwise",
    re.IGNORECASE,
)
_REMEDY = (
    "Say which axes belong together with --spec FILE.json, or pass --model module:function and "
    "--input-shape, to trace the model and check it."
)


class Guess(NamedTuple):
    """A guessed spec.

    Attributes:
        spec: the spec.
        assumptions: what was assumed, in words.
    """

    spec: UnitSpec
    assumptions: tuple[str, ...]


@dataclass
class _Module:
    """The leaves of one module by the last part of their names."""

    name: str
    leaves: dict[str, tuple[Path, tuple[int, ...]]] = field(default_factory=dict)

    @property
    def weight(self) -> tuple[Path, tuple[int, ...], str] | None:
        for last, (path, shape) in self.leaves.items():
            if last in _WEIGHTS and len(shape) > 1:
                return path, shape, last
        return None

    @property
    def stem(self) -> str:
        return re.sub(r"\d+", "#", self.name)


class _Layer(NamedTuple):
    """A dense layer or a convolution; torch's `weight` is (out, in, ...), others (..., in, out)."""

    module: _Module
    path: Path
    in_axis: int
    out_axis: int
    num_in: int
    num_out: int
    is_dense: bool
    is_torch: bool


def guess(tree: Any) -> Guess:
    """Tells the groups of hidden units of a chain of layers.

    Args:
        tree: the arrays.

    Returns:
        The spec and what was assumed.

    Raises:
        AmbiguousUnitsError: if names and shapes leave more than one reading, or none.
    """
    modules = _modules(tree)
    layers = _ordered([_layer(module) for module in modules if module.weight])
    if len(layers) < 2:
        raise AmbiguousUnitsError(f"fewer than two layers were found: no hidden units. {_REMEDY}")
    axes: dict[str, list[str | Member]] = {}
    assumptions = [
        "the layers form one chain without skip connections: "
        + ", ".join(layer.module.name for layer in layers),
        "weights are (out, in, ...) as in PyTorch"
        if layers[0].is_torch
        else "kernels are (..., in, out) as in Flax and Haiku",
    ]
    for layer, after in itertools.pairwise(layers):
        axes[layer.module.name] = [
            Member(layer.path, layer.out_axis),
            *_vectors(layer.module, layer.num_out),
            _reader(layer, after, assumptions),
        ]
    _vectors(layers[-1].module, layers[-1].num_out)
    for norm, layer in _norms([module for module in modules if not module.weight], layers):
        assumptions.append(f"{norm.name} has one entry per unit of {layer.module.name}")
        axes[layer.module.name] += _vectors(norm, layer.num_out)
    return Guess(spec_from_axes(tree, axes), tuple(assumptions))


def _modules(tree: Any) -> list[_Module]:
    """Modules in natural order of their names."""
    found: dict[tuple[str, ...], _Module] = {}
    for path, leaf in named_leaves(tree):
        if np.ndim(leaf) == 0 or np.size(leaf) < 1:
            continue
        *folders, last = (part for name in path for part in re.split(r"[./]", name))
        own = tuple(part for part in folders if part not in _COLLECTIONS)
        name = ".".join(own)
        if len([part for part in own if not part.isdigit()]) > 1:
            raise AmbiguousUnitsError(
                f"{name} is a module within a module, and may have a skip connection around it. "
                + _REMEDY
            )
        if _BRANCHED.search(name) or last not in _WEIGHTS | _BIASES | _PER_UNIT:
            raise AmbiguousUnitsError(
                f"{'/'.join(path)} is no dense layer, convolution or batch norm by its name. "
                + _REMEDY
            )
        module = found.setdefault(own, _Module(name))
        if last in module.leaves:
            raise AmbiguousUnitsError(f"there are two leaves {name}.{last}. {_REMEDY}")
        module.leaves[last] = path, np.shape(leaf)
    return [found[own] for own in sorted(found, key=natural_key)]


def _layer(module: _Module) -> _Layer:
    assert module.weight is not None
    path, shape, last = module.weight
    is_torch = last == "weight"
    in_axis, out_axis = (1, 0) if is_torch else (len(shape) - 2, len(shape) - 1)
    return _Layer(
        module, path, in_axis, out_axis, shape[in_axis], shape[out_axis], len(shape) == 2, is_torch
    )


def _ordered(layers: Sequence[_Layer]) -> list[_Layer]:
    """The one order in which each layer reads what the one before it writes.

    Layers whose names differ by a number only stand in the order of the numbers.
    """
    if len({layer.is_torch for layer in layers}) > 1:
        raise AmbiguousUnitsError(f"weights are named in two ways, 'weight' and others. {_REMEDY}")
    stems: dict[str, list[_Layer]] = {}
    for layer in layers:
        stems.setdefault(layer.module.stem, []).append(layer)
    if len(stems) > 7:
        raise AmbiguousUnitsError(f"too many differently named layers to order them. {_REMEDY}")
    chains = [
        chain
        for order in itertools.permutations(stems.values())
        if _is_chain(chain := list(itertools.chain.from_iterable(order)))
    ]
    if len(chains) != 1:
        names = ", ".join(layer.module.name for layer in layers)
        count = "no order" if not chains else f"{len(chains)} orders"
        raise AmbiguousUnitsError(
            f"of the layers {names} there is {count} in which each reads what the one before it "
            f"writes. {_REMEDY}"
        )
    return chains[0]


def _is_chain(layers: Sequence[_Layer]) -> bool:
    return all(_fits(layer, after) for layer, after in itertools.pairwise(layers))


def _fits(layer: _Layer, after: _Layer) -> bool:
    if layer.is_dense and not after.is_dense:
        return False
    is_flattened = after.is_dense and not layer.is_dense
    return after.num_in == layer.num_out or (is_flattened and after.num_in % layer.num_out == 0)


def _reader(layer: _Layer, after: _Layer, assumptions: list[str]) -> Member:
    """Where the next layer reads the units, flattened with pixels after a convolution."""
    pixels = after.num_in // layer.num_out
    if pixels == 1:
        return Member(after.path, after.in_axis)
    order = "channels before pixels" if after.is_torch else "pixels before channels"
    assumptions.append(
        f"{after.module.name} reads {layer.module.name} flattened from {pixels} pixels, {order}"
    )
    if after.is_torch:
        return Member(after.path, after.in_axis, after=pixels)
    return Member(after.path, after.in_axis, before=pixels)


def _vectors(module: _Module, size: int) -> list[Member]:
    """The leaves of a module with one entry per unit."""
    members = []
    for last, (path, shape) in module.leaves.items():
        if last in _WEIGHTS and len(shape) > 1:
            continue
        if shape != (size,):
            raise AmbiguousUnitsError(
                f"{'/'.join(path)} has shape {shape}, not ({size},) as the units. {_REMEDY}"
            )
        members.append(Member(path, 0))
    return members


def _norms(norms: Sequence[_Module], layers: Sequence[_Layer]) -> Iterator[tuple[_Module, _Layer]]:
    """Each norm with the layer whose units it follows."""
    taken: set[str] = set()
    for norm in norms:
        sizes = {shape for _, shape in norm.leaves.values()}
        numbers = [int(number) for number in re.findall(r"\d+", norm.name)]
        same = [layer for layer in layers if layer.module.stem == norm.stem]
        if same:  # in one sequence: the last layer before it
            before = [
                layer
                for layer in same
                if natural_key((layer.module.name,)) < natural_key((norm.name,))
            ]
            fitting = before[-1:]
        else:  # sequences of their own: the same number
            fitting = [
                layer
                for layer in layers[:-1]
                if [int(number) for number in re.findall(r"\d+", layer.module.name)] == numbers
                and sizes == {(layer.num_out,)}
            ]
            # One layer without a norm would shift the numbers: each of the family must have one.
            siblings = sum(other.stem == norm.stem for other in norms)
            families = {layer.module.stem for layer in fitting}
            family = [layer for layer in layers[:-1] if layer.module.stem in families]
            if siblings != len(family):
                fitting = []
        fitting = [layer for layer in fitting if layer.module.name not in taken]
        if len(fitting) != 1 or fitting[0] is layers[-1] or sizes != {(fitting[0].num_out,)}:
            raise AmbiguousUnitsError(
                f"{norm.name} cannot be told to follow one of the layers. {_REMEDY}"
            )
        taken.add(fitting[0].module.name)
        yield norm, fitting[0]
