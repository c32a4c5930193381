"""Parameter trees as the libraries make them."""

import jax
import jax.numpy as jnp


def dense(key: int, *sizes: int) -> dict:
    """A nested dict like Linen's: {"Dense_0": {"kernel", "bias"}, ...}."""
    keys = jax.random.split(jax.random.key(key), len(sizes) - 1)
    return {
        f"Dense_{i}": {
            "kernel": jax.random.normal(keys[i], (sizes[i], sizes[i + 1])),
            "bias": jnp.zeros(sizes[i + 1]),
        }
        for i in range(len(sizes) - 1)
    }


def linen():
    from flax import linen as nn

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.BatchNorm(use_running_average=True)(nn.Conv(20, (3, 3))(x)))
            return nn.Dense(10)(x.mean((1, 2)))

    return Net().init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))["params"]


def nnx_state():
    from flax import nnx

    rngs = nnx.Rngs(0)
    model = nnx.Sequential(
        nnx.Conv(1, 20, (3, 3), rngs=rngs),
        nnx.BatchNorm(20, rngs=rngs),
        nnx.Linear(20, 10, rngs=rngs),
    )
    return nnx.state(model, nnx.Param)


def haiku():
    import haiku as hk

    net = hk.transform(lambda x: hk.nets.MLP([20, 10])(x))
    return net.init(jax.random.key(0), jnp.zeros((1, 4)))


TREES = {
    "linen": linen,
    "nnx": nnx_state,
    "haiku": haiku,
    "nested dicts": lambda: {"net": dense(0, 4, 20, 10)},
    "list": lambda: [jnp.ones((4, 20)), jnp.zeros(20), jnp.ones((20, 10)), jnp.zeros(10)],
    "flat dict": lambda: {
        "w1": jnp.ones((4, 20)),
        "b1": jnp.zeros(20),
        "w2": jnp.ones((20, 10)),
        "b2": jnp.zeros(10),
    },
    "pairs": lambda: [(jnp.ones((4, 20)), jnp.zeros(20)), (jnp.ones((20, 10)), jnp.zeros(10))],
    "bare array": lambda: jnp.ones((4, 20)),
    "bare vector": lambda: jnp.ones(40),
    "scalar": lambda: jnp.ones(()),
}
