"""Rank of the activations against depth, with batch norm and without; does it grow like sqrt(d)?

At every layer r of what comes before the norm, after it, and after the activation; at some depths
the other measures as well. Batch = width = d unless said otherwise. The mean square of the whole
batch is set to 1 after every layer: that changes no rank, and without a norm nothing underflows.

Reference: Daneshmand, Kohler, Bach, Hofmann, Lucchi 2020, "Batch normalization provably avoids rank
collapse for randomly initialised deep networks".
"""

import contextlib
import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.errors import UsageError
from experiments.propagation import figure
from experiments.propagation.layers import Layer, kernel, measured
from experiments.propagation.study import (
    Piece,
    Records,
    Study,
    curve,
    estimates,
    plain,
    point,
    table,
    told,
)
from pfn_optax.precision import double_precision
from pfn_optax.propagation import activation_rank

NETWORKS = {
    "linear, uncentred": Layer("uncentred"),
    "linear, centred": Layer("centred"),
    "ReLU, uncentred": Layer("uncentred", "relu"),
    "ReLU, centred": Layer("centred", "relu"),
    "linear, no norm": Layer(),
    "ReLU, no norm": Layer("none", "relu"),
}
PLACES = ("product", "normed", "output")
DEFINITIONS: dict[str, dict[str, Any]] = {
    "as designed": {},
    "float64": {"is_double": True},
    "epsilon 1e-5": {"layer": Layer("uncentred", epsilon=1e-5)},
    "epsilon 1e-3": {"layer": Layer("uncentred", epsilon=1e-3)},
    "centred": {"layer": Layer("centred")},
    "uniform weights": {"layer": Layer("uncentred", weights="uniform")},
    "orthogonal weights": {"layer": Layer("uncentred", weights="orthogonal")},
    "batch 2 d": {"batch_per_width": 2},
    "batch 8 d": {"batch_per_width": 8},
    "depth 100": {"depth_share": 0.1},
    "depth 10": {"depth_share": 0.01},
}
"""At the least width: what the number there could depend on."""


@dataclasses.dataclass(frozen=True)
class RankDepthExperiment(Study):
    """Activation rank against depth, with batch norm and without, by width."""

    seeds: int = 10
    """Random draws of each network."""
    widths: tuple[int, ...] = (16, 32, 64, 128)
    """Units of a layer, and samples of a batch."""
    depth: int = 1000
    """Layers."""
    definition_seeds: int = 400
    """Draws at the least width for each definition of the rank."""
    run_dir: Path = Path("runs/rank_depth")
    """Outcomes of each network and width; resumed where it was left."""

    def __post_init__(self):
        """Check what can be checked before any work is done."""
        super().__post_init__()
        if len(self.widths) < 2 or min(self.widths) < 2:
            raise UsageError(f"widths must be two or more, each at least 2; got {self.widths}")
        if self.depth < 2:
            raise UsageError(f"depth must be at least 2; got {self.depth}")
        if self.definition_seeds < 2:
            raise UsageError(f"definition_seeds must be at least 2; got {self.definition_seeds}")

    def pieces(self) -> list[Piece]:
        """Every network at every width, and every definition at the least width."""
        networks = [("network", name, width) for name in NETWORKS for width in self.widths]
        return networks + [("definition", name, min(self.widths)) for name in DEFINITIONS]

    def measure(self, kind: str, name: str, width: int) -> dict[str, Any]:
        """Ranks by draw; of a network the other measures at some depths too."""
        if kind == "network":
            at, found = profile(NETWORKS[name], width, self.depth, self.seeds)
            return {"depths": at, **{key: plain(value) for key, value in found.items()}}
        options = {"layer": Layer("uncentred"), **DEFINITIONS[name]}
        depth = max(2, round(self.depth * options.pop("depth_share", 1.0)))
        found = ranks(width=width, depth=depth, seeds=self.definition_seeds, **options)
        return {key: plain(value) for key, value in found.items()}

    def summary(self, records: Records) -> dict[str, Any]:
        """Curves, ranks at the last layer, the exponent of the width, and the definitions."""
        networks = [record for record in records if record["piece"][0] == "network"]
        profiles, exponents = [], {}
        for record in networks:
            _, name, width = record["piece"]
            measures = {
                key: curve(record[key])
                for key in record
                if key not in ("piece", "depths") and np.ndim(record[key]) == 2
            }
            long = {key: estimates(record[key]) for key in record if key.startswith("long_run_")}
            profiles.append(
                {"network": name, "width": width, "depths": record["depths"], **measures, **long}
            )
        for name in NETWORKS:
            own = [record for record in networks if record["piece"][1] == name]
            exponents[name] = {
                place: estimates(slopes(own, f"long_run_{place}")) for place in PLACES
            }
        definitions = []
        for record in records:
            if record["piece"][0] == "definition":
                row: dict[str, Any] = {"definition": record["piece"][1]}
                for key in (*PLACES, "long_run_output"):
                    values = np.asarray(record[key])
                    row[key] = {**estimates(values), "deviation": float(values.std(ddof=1))}
                row["numerical_rank"] = estimates(record["numerical_rank"])
                fives = np.asarray(record["output"])
                fives = fives[: len(fives) // 5 * 5].reshape(-1, 5).mean(axis=1)
                row["means_of_five"] = plain([fives.min(), fives.max()], 2) if fives.size else None
                definitions.append(row)
        return {"networks": profiles, "exponents": exponents, "definitions": definitions}

    def text(self, found: dict[str, Any]) -> str:
        """Ranks at the last layer, with the exponent of the width, and the definitions."""
        rows = []
        for name in NETWORKS:
            own = [one for one in found["networks"] if one["network"] == name]
            for place in ("normed", "output") if name.startswith("ReLU") else ("output",):
                last = [told(one[f"long_run_{place}"]) for one in own]
                rows.append([f"{name} ({place})", *last, told(found["exponents"][name][place], 3)])
        widths = [f"d = {width}" for width in self.widths]
        first = table(["mean r over the second half", *widths, "exponent of d"], rows)
        rows = [
            [
                f"{curve['network']}, d = {curve['width']}",
                *(
                    told(point(curve[key], -1))
                    for key in ("output", "effective_rank", "numerical_rank")
                ),
                told(point(curve["mean_cosine"], -1), 3),
            ]
            for curve in found["networks"]
        ]
        head = ["last layer", "r", "effective rank", "numerical rank", "mean cosine"]
        second = table(head, rows)
        rows = [
            [
                row["definition"],
                *(told(row[place]) for place in ("product", "output", "long_run_output")),
                f"{row['output']['deviation']:.2f}",
                "{} to {}".format(*(row["means_of_five"] or ("", ""))),
                told(row["numerical_rank"]),
            ]
            for row in found["definitions"]
        ]
        head = [f"d = {min(self.widths)}", "r before the norm", "r after it"]
        head += ["mean of the second half", "deviation of a draw", "means of five draws"]
        third = table([*head, "numerical rank"], rows)
        return f"{first}\n\n{second}\n\n{third}"

    def draw(self, found: dict[str, Any], file: Path) -> None:
        """Draws ranks against depth, and against width."""
        figure.rank_depth(found, list(NETWORKS), self.widths, file)


def slopes(records: Records, key: str) -> np.ndarray:
    """Exponent of the width for each draw: least squares on the logarithms, f[draws]."""
    widths = np.log([record["piece"][2] for record in records])
    values = np.log(np.maximum([record[key] for record in records], 1e-6))
    centred = widths - widths.mean()
    return centred @ values / (centred @ centred)


def record_depths(depth: int) -> list[int]:
    """Depths at which everything is measured: 1, 2, 5, 10, ... and the last."""
    steps = [m * 10**e for e in range(len(str(depth))) for m in (1, 2, 5)]
    return [step for step in steps if step < depth] + [depth]


def profile(layer: Layer, width: int, depth: int, seeds: int) -> tuple[list[int], dict[str, Any]]:
    """Measures draws of a network at some depths.

    Returns:
        The depths; by name f[draws, depths], and `long_run_*` f[draws], the mean rank over all
        layers of the second half.
    """
    at = record_depths(depth)
    keys = jax.random.split(jax.random.key(width), seeds)
    carry = jax.vmap(lambda key: _start(key, width, width, jnp.float32))(keys)
    rows = []
    for start, stop in zip([0, *at], at, strict=False):
        carry, places = _advance(layer, depth // 2, keys, carry, start, stop)
        measures = _measured(places["output"])
        measures |= {place: _ranks(places[place]) for place in PLACES}
        rows.append({name: np.asarray(value, np.float64) for name, value in measures.items()})
    found = {
        name: np.stack([row[name] for row in rows], axis=1)
        for name in rows[0]
        if name != "activation_rank"  # is that of the place "output"
    }
    _, totals = carry
    num = depth - depth // 2
    return at, found | {f"long_run_{place}": totals[place] / num for place in PLACES}


def ranks(
    *,
    layer: Layer,
    width: int,
    depth: int,
    seeds: int,
    batch_per_width: int = 1,
    is_double: bool = False,
) -> dict[str, np.ndarray]:
    """Ranks at the last layer, and the means over the second half, f[draws] each."""
    with double_precision() if is_double else contextlib.nullcontext():
        dtype = jnp.float64 if is_double else jnp.float32
        keys = jax.random.split(jax.random.key(width), seeds)
        carry = jax.vmap(lambda key: _start(key, batch_per_width * width, width, dtype))(keys)
        carry, places = _advance(layer, depth // 2, keys, carry, 0, depth)
        _, totals = carry
        num = depth - depth // 2
        found = {place: np.asarray(_ranks(places[place])) for place in PLACES}
        found["numerical_rank"] = np.asarray(_measured(places["output"])["numerical_rank"])
        return found | {f"long_run_{place}": np.asarray(totals[place]) / num for place in PLACES}


@functools.partial(jax.jit, static_argnums=0)
@functools.partial(jax.vmap, in_axes=(None, None, 0, 0, None, None))
def _advance(
    layer: Layer, half: int, key: jax.Array, carry: Any, start: Any, stop: Any
) -> tuple[Any, dict[str, jax.Array]]:
    """Goes from one depth to another; adds up ranks beyond the half."""

    def one(number: Any, state: Any) -> Any:
        (activations, totals), _ = state
        shape = 2 * activations.shape[1:]
        own = kernel(jax.random.fold_in(key, number), shape, layer.weights, activations.dtype)
        places = layer(own, activations)
        size = jnp.sqrt(jnp.mean(places["output"] ** 2))
        output = places["output"] / jnp.where(size == 0, 1, size)
        totals = {
            place: total + jnp.where(number >= half, activation_rank(places[place]), 0)
            for place, total in totals.items()
        }
        return (output, totals), places

    activations, _ = carry
    places = dict.fromkeys(PLACES, activations)
    return jax.lax.fori_loop(start, stop, one, (carry, places))


def _start(key: jax.Array, batch: int, width: int, dtype: Any) -> Any:
    own = jax.random.fold_in(key, 2**31 - 1)
    return jax.random.normal(own, (batch, width), dtype), dict.fromkeys(
        PLACES, jnp.zeros((), dtype)
    )


_measured = jax.jit(jax.vmap(measured))
_ranks = jax.jit(jax.vmap(activation_rank))
