"""`python -m tests.growth.sharded`: growth of parameters that four devices share.

A process of its own, since the number of host devices is fixed when JAX starts. Prints JSON, which
`test_sharding.py` asserts on.
"""

import json
import os

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"

import jax
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

from pfn_optax import pfn
from pfn_optax.growth import GrowthController, grow
from pfn_optax.units import UnitSpec, spec_from_axes
from pfn_optax.units.spec import Member

MESH = jax.sharding.Mesh(np.asarray(jax.devices()), ("devices",))


def main() -> None:
    """Grows by as many units as can be shared evenly, and by one."""
    draw = np.random.default_rng(0)
    params = {"in": draw.normal(size=(12, 8)), "out": draw.normal(size=(8, 12))}
    params = {name: leaf.astype(np.float32) for name, leaf in params.items()}
    members = [Member(("in",), 1, is_read=False), Member(("out",), 0, is_read=True)]
    spec = spec_from_axes(params, {"hidden": members})
    parts = {"in": PartitionSpec(None, "devices"), "out": PartitionSpec("devices")}
    shardings = {name: NamedSharding(MESH, part) for name, part in parts.items()}
    shared = jax.device_put(params, shardings)
    optimizer = optax.trace(0.9)
    options = {"key": jax.random.key(0), "optimizer": optimizer}

    def grown(params: dict, number: int):
        state = optimizer.init(params)._replace(trace=params)
        return grow(params, spec, "hidden", number, optimizer_state=state, **options)

    wide, expected = grown(shared, 4), grown(params, 4)
    both = zip(
        jax.tree.leaves((wide.params, wide.optimizer_state)),
        jax.tree.leaves((expected.params, expected.optimizer_state)),
        strict=True,
    )
    found = {
        "is_same": all(np.array_equal(left, right) for left, right in both),
        "kept": all(
            tree[name].sharding == shardings[name]
            for tree in (wide.params, wide.optimizer_state.trace)
            for name in params
        ),
    }
    try:
        grown(shared, 1)
    except ValueError as error:
        found["error"] = str(error)
    found |= controlled(shared, spec)
    print(json.dumps(found))


def controlled(params: dict, spec: UnitSpec) -> dict:
    """Calls the controller, with sizes that can be shared evenly and with others."""
    optimizer = optax.chain(pfn(capacity="norm", every=1), optax.trace(0.9))
    _, state = optimizer.update(params, optimizer.init(params), params)
    found = {}
    for chunk in (4, 5):
        controller = GrowthController(
            spec, optimizer, chunk=chunk, factor=1.2, patience=1, capacity="norm"
        )
        try:
            stepped = controller.step(params, state)
            found["grown"] = stepped.decision.grown
            found["is_shared"] = stepped.params["in"].sharding == params["in"].sharding
        except ValueError as error:
            found["refused"] = str(error)
            found["is_unchanged"] = not controller.record.decisions
    return found


if __name__ == "__main__":
    main()
