"""`python -m tests.curvature.eight_devices`: sharded parameters beside one device, as JSON.

A process of its own, since the number of host devices is fixed when JAX starts.
"""

import collections
import json
import os
import re

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from pfn_optax.curvature import extreme_eigenpairs, hessian_operator, inertia_bounds
from tests.trees import dense


def loss(params, x):
    for layer in params.values():
        x = jnp.tanh(x @ layer["kernel"] + layer["bias"])
    return jnp.mean(x**2)


def collectives(operator, vector) -> dict[str, int]:
    """How often a compiled product exchanges data between devices, by the kind of exchange."""
    text = jax.jit(lambda operator, vector: operator(vector)).lower(operator, vector)
    found = re.findall(
        r" (all-[a-z]+|reduce-scatter|collective-permute)(?:-start)?\(", text.compile().as_text()
    )
    return dict(collections.Counter(found))


def main() -> dict:
    params = jax.tree.map(lambda leaf: leaf / 4, dense(0, 8, 16, 8))
    batch = jax.random.normal(jax.random.key(1), (8, 8))
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()), ("devices",))
    sharding = NamedSharding(mesh, PartitionSpec("devices"))
    sharded = jax.device_put(params, sharding)
    one, eight = (hessian_operator(loss, at, batch) for at in (params, sharded))
    # The same batch in eight parts, parameters on every device.
    copied = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
    parallel = hessian_operator(loss, copied, jax.device_put(batch, sharding))
    product, expected = eight(sharded), one(params)
    difference = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), product, expected)
    values = [np.asarray(extreme_eigenpairs(at, 2).values).tolist() for at in (one, eight)]
    counts = [inertia_bounds(at, num_vectors=12)[:3] for at in (one, eight)]
    return {
        "difference": max(jax.tree.leaves(difference)),
        "is_sharding_kept": [
            leaf.sharding.is_equivalent_to(sharding, leaf.ndim) for leaf in jax.tree.leaves(product)
        ],
        "collectives": {
            "sharded parameters": collectives(eight, sharded),
            "sharded batch": collectives(parallel, copied),
        },
        "values": values,
        "counts": counts,
    }


if __name__ == "__main__":
    print(json.dumps(main()))
