"""Does the cut know? Bottlenecks planted in networks at initialisation, and who finds them.

A planted bottleneck is known by construction: a layer with 4 of 64 units, a layer of rank one, a
layer in which seven of eight units are nearly dead, a layer whose weights are a hundred times too
small. For each capacity the share of networks is counted in which every block of the minimum cut
belongs to the planted layer; in healthy networks, in which it belongs to the head. Beside it stand
simple rivals that need no flow. The default capacity of `pfn` was chosen from this table.
"""

import dataclasses
import itertools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from experiments.data import load
from pfn_optax import pfn
from pfn_optax.capacity import CAPACITIES
from pfn_optax.partition import partition

_WIDTH, _DEPTH, _NARROW = 64, 6, 4
NUM_BATCHES, BATCH_SIZE = 10, 128
_HEAD = f"Dense_{_DEPTH}"
KINDS = ("healthy", "narrow", "rank one", "starved", "scaled")


@dataclasses.dataclass(frozen=True)
class PlantedExperiment:
    """Plant bottlenecks in ReLU networks on the digits, and count how often the cut names them."""

    networks: int = 40
    """Networks per kind of bottleneck."""
    block_size: int = 16
    """Output units per block."""
    json: Path | None = None
    """Where to write the table, if anywhere."""

    def run(self) -> None:
        """Measure and print the table."""
        table = self.measure()
        print(f"\nshare of {self.networks} networks in which the planted layer is named:\n")
        print(f"| named by | {' | '.join(KINDS)} |")
        print(f"| --- |{' --- |' * len(KINDS)}")
        for name, row in table.items():
            print(f"| {name} | {' | '.join(f'{row[kind]:.2f}' for kind in KINDS)} |")
        if self.json:
            self.json.write_text(
                json.dumps({"block_size": self.block_size, "table": table}, indent=2)
            )

    def measure(self) -> dict[str, dict[str, float]]:
        """Returns, for each capacity and rival, the share of networks named right per kind."""
        batches = digit_batches()
        table: dict[str, dict[str, float]] = {}
        jobs = [(name, kind) for name in (*CAPACITIES, *_RIVALS) for kind in KINDS]
        cases = {kind: [plant(kind, seed) for seed in range(self.networks)] for kind in KINDS}
        for name, kind in tqdm(jobs, desc="planted bottlenecks"):
            layers = named_layers(name, [case[0] for case in cases[kind]], batches, self.block_size)
            hits = [
                bool(named) and named <= planted
                for named, (_, planted) in zip(layers, cases[kind], strict=True)
            ]
            table.setdefault(name, {})[kind] = float(np.mean(hits))
        return table


def plant(kind: str, seed: int) -> tuple[dict, set[str]]:
    """Makes a network with a bottleneck.

    Args:
        kind: one of `KINDS`.
        seed: of the weights and of where the bottleneck sits.

    Returns:
        Its parameters, and the names of the layers that are right answers.
    """
    generator = np.random.default_rng([seed, KINDS.index(kind)])
    # The narrow layer stands in the same place in all networks, so that they make one batch.
    place = 2 if kind == "narrow" else int(generator.integers(1, _DEPTH))
    sizes = [64, *[_WIDTH] * _DEPTH, 10]
    if kind == "narrow":
        sizes[place + 1] = _NARROW
    kernels = [
        generator.normal(size=(fan_in, fan_out)) * np.sqrt(2 / fan_in)
        for fan_in, fan_out in itertools.pairwise(sizes)
    ]
    kernel, answers = kernels[place], {f"Dense_{place}"}
    if kind == "rank one":
        one = np.outer(generator.normal(size=len(kernel)), generator.normal(size=kernel.shape[1]))
        kernels[place] = one * np.linalg.norm(kernel) / np.linalg.norm(one)
    elif kind == "starved":
        dead = generator.permutation(kernel.shape[1])[: kernel.shape[1] * 7 // 8]
        kernel[:, dead] *= 1e-3
    elif kind == "scaled":
        kernels[place] = 0.01 * kernel
    elif kind == "narrow":
        answers.add(f"Dense_{place + 1}")  # its input is as narrow
    else:
        answers = {_HEAD}
    params = {
        f"Dense_{i}": {"kernel": jnp.float32(kernel), "bias": jnp.zeros(kernel.shape[1])}
        for i, kernel in enumerate(kernels)
    }
    return params, answers


def digit_batches() -> tuple[jax.Array, jax.Array]:
    """Returns real digits in batches, f32[NUM_BATCHES, BATCH_SIZE, 64], and their labels."""
    data = load("digits")
    order = np.random.default_rng(0).permutation(len(data.train_labels))
    chosen = order[: NUM_BATCHES * BATCH_SIZE].reshape(NUM_BATCHES, BATCH_SIZE)
    images = data.train_images.reshape(len(order), -1) / data.train_images.max()
    return jnp.float32(images[chosen]), jnp.int32(data.train_labels[chosen])


def _loss(params: dict, images: jax.Array, labels: jax.Array) -> jax.Array:
    x = images
    for i in range(_DEPTH + 1):
        x = x @ params[f"Dense_{i}"]["kernel"] + params[f"Dense_{i}"]["bias"]
        x = jax.nn.relu(x) if i < _DEPTH else x
    return optax.softmax_cross_entropy_with_integer_labels(x, labels).mean()


def named_layers(name: str, networks: list[dict], batches, block_size: int) -> list[set[str]]:
    """The layers that a capacity's cut, or a rival, names in each network."""
    layout = partition(networks[0], block_size=block_size)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *networks)
    names = np.array([layer.name for layer in layout.layers])
    if name in _RIVALS:
        chosen = jax.jit(jax.vmap(_RIVALS[name], in_axes=(0, None)))(stacked, batches)
        return [{str(names[index])} for index in np.asarray(chosen)]
    diagnosis = pfn(capacity=name, block_size=block_size, every=NUM_BATCHES, beta=0.0)

    def cut(params):
        def step(state, batch):
            grads = jax.grad(_loss)(params, *batch)
            return diagnosis.update(grads, state, params)[1], None

        state, _ = jax.lax.scan(step, diagnosis.init(params), batches)
        return optax.tree.get(state, "pfn_cut")

    cuts = np.asarray(jax.jit(jax.vmap(cut))(stacked))
    return [set(names[layout.block_layer[row]].tolist()) for row in cuts]


def _layer_norms(tree: dict) -> jax.Array:
    return jnp.stack([optax.tree.norm(tree[f"Dense_{i}"]) for i in range(_DEPTH + 1)])


def _mean_gradient_norms(params: dict, batches) -> jax.Array:
    norms = jax.vmap(lambda *batch: _layer_norms(jax.grad(_loss)(params, *batch)))(*batches)
    return norms.mean(0)


_RIVALS = {
    "smallest gradient norm": lambda params, batches: _mean_gradient_norms(
        params, batches
    ).argmin(),
    "fewest units": lambda params, _: jnp.argmin(
        jnp.array([params[f"Dense_{i}"]["bias"].size for i in range(_DEPTH + 1)])
    ),
    "smallest weight / gradient norm": lambda params, batches: jnp.argmin(
        _layer_norms(params) / _mean_gradient_norms(params, batches)
    ),
}
