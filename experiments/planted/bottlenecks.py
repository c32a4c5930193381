"""Bottlenecks planted by construction, and which answers are right.

The cause stands in one layer, the *place*, drawn by seed. But for the starved branch it is a layer
on the trunk, where no skip leads around it, neither the first nor the last two: so the layer that
reads it is never the head, the answer for healthy networks.

| kind | what is planted | right layers |
| --- | --- | --- |
| healthy | nothing | the head |
| narrow | a layer of 4 units | the place and its reader: both pass 4 directions |
| low rank | kernel of rank 4, at the norm it had | the place |
| dead group | weights into half of the units times .001 | the place and its reader |
| starved units | weights into all but 4 units, scattered, times .001 | the place and its reader |
| starved branch | last kernel of a residual branch times .001 | all layers of the branch |
| sub-block | weights times .001 but those into 4 units or out of 4 | the place |
| frozen half | bias of -30 in half of the units: they never fire | the place and its reader |

Dead groups, sub-blocks and frozen halves are runs of neighbouring units. A classifier of 10 classes
needs 9 directions. A narrow layer, a low rank, starved units or a sub-block leave 4 to 8 at each
position: they are bottlenecks of the whole network. A dead group and a frozen half leave the other
half, and a skip leads around a starved branch: they are faults with a way around.
"""

import dataclasses
from typing import Literal, NamedTuple, get_args

import jax.numpy as jnp
import numpy as np

from experiments.planted.networks import FAMILIES, NARROW, Architecture, Params

Kind = Literal[
    "healthy",
    "narrow",
    "low rank",
    "dead group",
    "starved units",
    "starved branch",
    "sub-block",
    "frozen half",
]
KINDS: tuple[Kind, ...] = get_args(Kind)
BOTTLENECKS: tuple[Kind, ...] = ("narrow", "low rank", "starved units", "sub-block")
FAULTS: tuple[Kind, ...] = ("dead group", "starved branch", "frozen half")
STARVED = 1e-3
# What kills units is as visible in the layer that reads them, unless a skip goes beside that one.
_FEW_UNITS = ("narrow", "dead group", "starved units", "frozen half")
NEVER_FIRES = -30.0


class Case(NamedTuple):
    """A network with a bottleneck.

    Attributes:
        architecture: the network.
        params: its parameters.
        kind: what is planted.
        place: number of the layer it is planted in; the head in a healthy network.
        answers: names of the layers that are right answers.
        mask: bool, shape of the place's kernel: the weights that are planted.
        healthy_kernel: the place's kernel before it was planted.
    """

    architecture: Architecture
    params: Params
    kind: Kind
    place: int
    answers: frozenset[str]
    mask: np.ndarray
    healthy_kernel: np.ndarray

    @property
    def name(self) -> str:
        """Name of the place."""
        return self.architecture.layers[self.place].name


def kinds_of(architecture: Architecture) -> tuple[Kind, ...]:
    """The kinds that fit: units starve in plain networks, branches in residual ones."""
    has_branches = any(layer.branch is not None for layer in architecture.layers)
    return tuple(
        kind for kind in KINDS if kind != ("starved units" if has_branches else "starved branch")
    )


def places(architecture: Architecture, kind: Kind) -> tuple[int, ...]:
    """Numbers of the layers that a kind can be planted in."""
    layers = architecture.layers
    if kind == "healthy":
        return (len(layers) - 1,)
    if kind == "starved branch":
        return tuple(
            number
            for number, layer in enumerate(layers[:-1])
            if layer.branch is not None and layers[number + 1].branch != layer.branch
        )
    trunk = [number for number in range(1, len(layers) - 2) if layers[number].branch is None]
    if kind == "narrow":  # one place, so that all narrow networks have the same shapes
        return (trunk[len(trunk) // 2],)
    if kind == "frozen half":
        return tuple(number for number in trunk if layers[number].is_rectified)
    return tuple(trunk)


def plant(architecture: Architecture, kind: Kind, seed: int) -> Case:
    """Draws a network and plants a bottleneck in it.

    Args:
        architecture: a healthy one; "narrow" makes it narrow.
        kind: what to plant, one of `kinds_of(architecture)`.
        seed: of the weights and of the place.

    Returns:
        The network and what is known of it.

    Raises:
        ValueError: if the kind does not fit the architecture.

    Example:
        >>> case = plant(Architecture("mlp", width=32, depth=4), "low rank", seed=0)
        >>> int(np.linalg.matrix_rank(case.params[case.name]["kernel"], tol=1e-4))
        4
    """
    if kind not in kinds_of(architecture):
        raise ValueError(
            f"kind must be one of {', '.join(kinds_of(architecture))} for the family "
            f"{architecture.family!r}; got {kind!r}"
        )
    family = FAMILIES.index(architecture.family)
    generator = np.random.default_rng([seed, KINDS.index(kind), family, architecture.width])
    place = int(generator.choice(places(architecture, kind)))
    if kind == "narrow":
        architecture = dataclasses.replace(architecture, narrow=place)
    params = architecture.init(generator)
    layers = architecture.layers
    own = params[layers[place].name]
    healthy = np.array(own["kernel"])
    mask, answers = np.ones(healthy.shape, bool), {layers[place].name}
    if kind in _FEW_UNITS and layers[place + 1].branch is None:
        answers.add(layers[place + 1].name)
    match kind:
        case "healthy":
            mask[:] = False
        case "low rank":
            own["kernel"] = jnp.asarray(low_rank(healthy))
        case "dead group":
            mask[:] = _half(generator, healthy.shape[-1])
        case "starved units":
            mask[..., generator.permutation(healthy.shape[-1])[:NARROW]] = False
        case "starved branch":
            branch = layers[place].branch
            answers = {layer.name for layer in layers if layer.branch == branch}
        case "sub-block":
            mask[..., _run(generator, healthy.shape[-1], NARROW)] = False
            mask[..., _run(generator, healthy.shape[-2], NARROW), :] = False
        case "frozen half":
            mask[:] = _half(generator, healthy.shape[-1])
            own["bias"] = jnp.where(mask.any(tuple(range(mask.ndim - 1))), NEVER_FIRES, 0.0)
    if kind in ("dead group", "starved units", "starved branch", "sub-block"):
        own["kernel"] = jnp.where(mask, STARVED * healthy, healthy)
    return Case(architecture, params, kind, place, frozenset(answers), mask, healthy)


def healed(case: Case, params: Params) -> float:
    """How far training has undone what was planted: 0 as planted, 1 (or more) as in health.

    Of weights that were made small, the norm they have over the one they had; of a low rank, the
    share of energy outside of the first `NARROW` singular values over what it was. A narrow layer
    stays one, units that never fire have no gradient, and in health there is nothing to heal.
    """
    kernel = np.asarray(params[case.name]["kernel"], np.float64)
    match case.kind:
        case "healthy" | "narrow" | "frozen half":
            return 0.0
        case "low rank":
            return _tail(kernel) / _tail(case.healthy_kernel)
        case _:
            small = np.where(case.mask, kernel, 0), np.where(case.mask, case.healthy_kernel, 0)
            now, before = map(np.linalg.norm, (part.ravel() for part in small))
            return float((now / before - STARVED) / (1 - STARVED))


def _half(generator: np.random.Generator, size: int) -> np.ndarray:
    """The first or the second half, as a mask."""
    return (np.arange(size) < size // 2) ^ bool(generator.integers(2))


def _run(generator: np.random.Generator, size: int, length: int) -> slice:
    """Neighbours at a multiple of their number."""
    start = length * int(generator.integers(size // length))
    return slice(start, start + length)


def low_rank(kernel: np.ndarray, rank: int = NARROW) -> np.ndarray:
    """The nearest kernel of a low rank, brought back to the norm it had."""
    left, values, right = np.linalg.svd(kernel.reshape(-1, kernel.shape[-1]), full_matrices=False)
    low = (left[:, :rank] * values[:rank]) @ right[:rank]
    return (low * np.linalg.norm(values) / np.linalg.norm(values[:rank])).reshape(kernel.shape)


def _tail(kernel: np.ndarray) -> float:
    values = np.linalg.svd(kernel.reshape(-1, kernel.shape[-1]), compute_uv=False)
    return float(np.square(values[NARROW:]).sum() / np.square(values).sum())
