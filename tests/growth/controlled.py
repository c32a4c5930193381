"""An hourglass of which the test says where the cut is, by the gradients that it feeds."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from pfn_optax import pfn
from pfn_optax.growth import GrowthController, state_kinds
from pfn_optax.units import unit_spec

SIZES = {"first": (4, 16), "second": (16, 2), "third": (2, 16), "head": (16, 5)}
X = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)


def predict(params, x):
    for name in ("first", "second", "third"):
        x = jnp.tanh(x @ params[name]["w"] + params[name]["b"])
    return x @ params["head"]["w"]


def loss(outputs, x):
    """How far the outputs are from functions of the input."""
    return jnp.mean(jnp.square(outputs[:, :3] - jnp.sin(x[:, :3])))


def weights(seed=0):
    draw = np.random.default_rng(seed)
    params = {
        name: {"w": jnp.asarray(draw.normal(size=size) / size[0] ** 0.5, jnp.float32)}
        for name, size in SIZES.items()
    }
    for name in ("first", "second", "third"):
        params[name]["b"] = jnp.asarray(draw.normal(size=SIZES[name][1]), jnp.float32)
    return params


SPEC = unit_spec(predict, weights(), X)


# Norms as capacities: the layer with the smallest gradient is the cut.
def optimizer_of(inner=None, **options):
    observe = pfn(capacity="norm", every=1, ema_decay=0.0, beta=0.0, **options)
    return optax.chain(observe, inner or optax.adam(0.01))


OPTIMIZER = optimizer_of()
KINDS = state_kinds(OPTIMIZER, weights())


def controller_of(optimizer=OPTIMIZER, spec=SPEC, **options):
    kinds = KINDS if optimizer is OPTIMIZER else None
    return GrowthController(spec, optimizer, **{"capacity": "norm", "kinds": kinds, **options})


def trained(params, state, *, cut="second", times=2, optimizer=OPTIMIZER):
    """Takes steps after each of which the layers named by `cut` are the cut."""

    def scaled(path, leaf):
        return jnp.full_like(leaf, 1e-3 if path[0].key in cut.split() else 1.0)

    gradients = jax.tree_util.tree_map_with_path(scaled, params)
    for _ in range(times):
        updates, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def start(cut="second", times=2, optimizer=OPTIMIZER):
    params = weights()
    return trained(params, optimizer.init(params), cut=cut, times=times, optimizer=optimizer)
