"""`python -m tests.sharded`: updates on eight devices beside one, and what the devices exchange.

A process of its own, since the number of host devices is fixed when JAX starts. Prints JSON, which
`test_sharding.py` asserts on.
"""

import functools
import json
import os
import re

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

from pfn_optax import graph_from_loss, pfn, unit_graph, with_pfn
from tests.trees import dense

MESH = jax.sharding.Mesh(np.asarray(jax.devices()), ("devices",))
REPLICATED = NamedSharding(MESH, PartitionSpec())
NUM_STEPS = 6


def loss(params, x):
    for layer in params.values():
        y = jnp.tanh(x @ layer["kernel"] + layer["bias"])
        x = x + y if x.shape == y.shape else y
    return jnp.mean(x**2)


PARAMS = dense(0, 64, 128, 128, 64)
BATCH = jax.random.normal(jax.random.key(1), (8, 64))
GRADS = jax.grad(loss)(PARAMS, BATCH)
GRAPHS = {
    "chain": {},
    "traced": {"graph": graph_from_loss(loss, PARAMS, BATCH)},
    "units": {"graph": unit_graph(loss, PARAMS, BATCH, block_size=32)},
}
SPECS = {
    "fsdp": lambda leaf: PartitionSpec("devices"),
    "tensor": lambda leaf: PartitionSpec(*[None] * (leaf.ndim - 1), "devices"),
}
WINDOWED = {"every": 3, "ema_window": 2}
OPTIMIZERS = {graph: pfn(**GRAPHS[graph], **WINDOWED) for graph in GRAPHS} | {
    "every step": pfn(every=3, capacity="norm"),
    "renormalized": pfn(every=3, capacity="norm", ema_window=2, renormalize=True),
    "around adam": with_pfn(optax.adam(1e-3), **WINDOWED),
}
CASES = [(graph, spec) for graph in GRAPHS for spec in SPECS]
CASES += [("every step", "fsdp"), ("renormalized", "tensor"), ("around adam", "fsdp")]


def collectives(text: str) -> dict[str, list[str]]:
    """What a compiled update exchanges: in every step, when it measures, and when it diagnoses.

    Measuring under `ema_window` is the update's conditional and a diagnosis its loop; all else is
    done in every step.
    """
    bodies = dict(re.findall(r"^(?:ENTRY )?%?([\w.-]+) \(.*?\{\n(.*?)^\}", text, re.M | re.S))
    found: dict[str, list[str]] = {"step": [], "measurement": [], "diagnosis": []}

    def visit(name: str, part: str) -> None:
        for line in bodies[name].splitlines():
            operation = re.search(r" = (.*?) ([a-z-]+)\(", line)
            kind = operation.group(2) if operation else ""
            if re.match("all-|reduce-scatter|collective-|ragged-all", kind):
                found[part].append(f"{kind} {operation.group(1)}")
            inner = {"conditional": "measurement", "while": "diagnosis"}.get(kind, part)
            for called in re.findall(r"%?([\w.-]+)", line.split(")", 1)[-1]):
                if called in bodies:
                    visit(called, inner if part == "step" else part)

    visit(re.search(r"^ENTRY %?([\w.-]+)", text, re.M).group(1), "step")
    return found


def gradients(step: int) -> dict:
    return jax.tree.map(lambda leaf: leaf * (1 + step), GRADS)


@functools.cache
def one_device(name: str) -> tuple:
    """The last updates and state on one device."""
    optimizer = OPTIMIZERS[name]
    updates, state, update = None, optimizer.init(PARAMS), jax.jit(optimizer.update)
    for step in range(NUM_STEPS):
        updates, state = update(gradients(step), state, PARAMS)
    return updates, state


def compare(name: str, spec: str) -> dict:
    """Several updates on sharded gradients and parameters, and the same on one device."""
    optimizer = OPTIMIZERS[name]
    by_param = jax.tree.map(lambda leaf: NamedSharding(MESH, SPECS[spec](leaf)), PARAMS)
    by_state = optax.tree.map_params(
        optimizer,
        lambda _, sharding: sharding,
        jax.eval_shape(optimizer.init, PARAMS),
        by_param,
        transform_non_params=lambda _: REPLICATED,
    )
    params, grads = jax.device_put(PARAMS, by_param), jax.device_put(GRADS, by_param)
    state = jax.jit(optimizer.init, out_shardings=by_state)(params)
    update = (
        jax.jit(optimizer.update, out_shardings=(by_param, by_state))
        .lower(grads, state, params)
        .compile()
    )
    updates = grads
    for step in range(NUM_STEPS):
        updates, state = update(jax.device_put(gradients(step), by_param), state, params)
    expected = one_device(name)
    cut = np.asarray(optax.tree.get(state, "pfn_cut"))
    return {
        "collectives": collectives(update.as_text()),
        "difference": max(
            float(np.max(np.abs(here - there)) / (np.max(np.abs(there)) or 1))
            for here, there in zip(
                map(np.float64, jax.tree.leaves((updates, state))),
                map(np.float64, jax.tree.leaves(expected)),
                strict=True,
            )
        ),
        "cut": int(cut.sum()),
        "same_cut": bool((cut == np.asarray(optax.tree.get(expected[1], "pfn_cut"))).all()),
        "diagnoses": int(optax.tree.get(state, "pfn_diagnoses")),
    }


if __name__ == "__main__":
    print(json.dumps({" ".join(case): compare(*case) for case in CASES}))
