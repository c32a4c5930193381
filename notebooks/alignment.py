# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Two networks, one representation
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/)
#
# Two networks trained from different seeds compute nearly the same function with parameters
# that look nothing alike: their hidden units stand in another order. Here we put them in the
# same order, walk from one to the other, and merge them.

# %%
import sys

if "google.colab" in sys.modules:
    from importlib.metadata import version

    JAX = version("jax")  # the one for this machine's GPU or TPU: it stays
    # %pip install --quiet "pfn_optax[plot]" "jax=={JAX}" scikit-learn

# %%
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.datasets import load_digits

from pfn_optax.align import align, loss_barrier, merge, repair
from pfn_optax.drawing import draw_barrier
from pfn_optax.units import num_symmetries, unit_spec

# "quick" as the tests run it, "small" on a CPU, "full" on a GPU or TPU
SETTING = os.environ.get("PFN_OPTAX_SETTING", "small" if jax.default_backend() == "cpu" else "full")
WIDTH, NUM_STEPS = {"quick": (32, 60), "small": (512, 1000), "full": (2048, 4000)}[SETTING]

# %% [markdown]
# ## Two trained networks
#
# Handwritten digits, 8 x 8 pixels; an MLP with two hidden layers; two seeds.

# %%
digits = load_digits()
images, labels = jnp.asarray(digits.data / 16, jnp.float32), jnp.asarray(digits.target)
train, test = (images[:1200], labels[:1200]), (images[1200:], labels[1200:])


def init(key):
    sizes = [64, WIDTH, WIDTH, 10]
    keys = jax.random.split(key, 3)
    return [
        {"kernel": jax.random.normal(k, (n, m)) * jnp.sqrt(2 / n), "bias": jnp.zeros(m)}
        for k, n, m in zip(keys, sizes[:-1], sizes[1:], strict=True)
    ]


def predict(params, x):
    *hidden, head = params
    for layer in hidden:
        x = jax.nn.relu(x @ layer["kernel"] + layer["bias"])
    return x @ head["kernel"] + head["bias"]


def loss(params, x, y):
    scores = predict(params, x)
    losses = optax.softmax_cross_entropy_with_integer_labels(scores, y)
    return losses.mean(), {"accuracy": (scores.argmax(-1) == y).mean()}


@jax.jit
def trained(key):
    start, order = jax.random.split(key)
    optimizer = optax.adam(1e-3)

    def step(carry, key):
        params, state = carry
        chosen = jax.random.choice(key, len(train[0]), (128,))
        grads, _ = jax.grad(loss, has_aux=True)(params, train[0][chosen], train[1][chosen])
        updates, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    params = init(start)
    carry = (params, optimizer.init(params))
    return jax.lax.scan(step, carry, jax.random.split(order, NUM_STEPS))[0][0]


a, b = trained(jax.random.key(0)), trained(jax.random.key(1))
print([f"{loss(params, *test)[1]['accuracy']:.1%}" for params in (a, b)])

# %% [markdown]
# ## Which units may change places
#
# `unit_spec` traces the function and finds the groups of hidden units that can be permuted
# together, and it proves them: it permutes, and compares the outputs.

# %%
spec = unit_spec(predict, a, images[:2])
for group in spec.groups:
    print(group.name, group.size, "units:", ", ".join(map(str, group.members)))
print(f"10^{num_symmetries(spec):.0f} permutations leave the function as it is")

# %% [markdown]
# ## Bring b to where a is

# %%
alignment = align(a, b, spec, restarts=3)
print(f"squared distance {alignment.before:.0f} -> {alignment.after:.0f}, {alignment.status}")
moved = alignment.params
print("outputs differ by", float(jnp.abs(predict(moved, images) - predict(b, images)).max()))

# %% [markdown]
# What the first eight units of the first layer look for in the 8 x 8 pixels: in a, in b, and in b
# after its units were put into a's order.

# %%
figure, rows = plt.subplots(3, 8, figsize=(8, 3.4), layout="constrained")
for row, (name, params) in zip(rows, {"a": a, "b": b, "b, matched": moved}.items(), strict=True):
    for unit, axes in enumerate(row):
        axes.imshow(params[0]["kernel"][:, unit].reshape(8, 8), cmap="RdBu", vmin=-0.6, vmax=0.6)
        axes.set(xticks=[], yticks=[])
    row[0].set_ylabel(name)
plt.show()

# %% [markdown]
# ## The way from one to the other
#
# On the straight line between a and b the loss rises; between a and the moved b hardly.

# %%
batches = {"train": [train], "test": [test]}
num_points = 5 if SETTING == "quick" else 25


def repaired(model, t):
    return repair(predict, model, [a, moved], [train[:1]], spec, weights=(1 - t, t))


curves = {
    "naive": loss_barrier(loss, a, b, batches, num_points=num_points),
    "matched": loss_barrier(loss, a, moved, batches, num_points=num_points),
    "matched, REPAIR": loss_barrier(
        loss, a, moved, batches, num_points=num_points, correction=repaired
    ),
}
for name, own in curves.items():
    print(f"{name:16} barrier on test images {own['test'].barrier:.3f}")
draw_barrier(curves)

# %% [markdown]
# ## Half-way

# %%
for name, pair in {"raw mean": [a, b], "mean after matching": [a, moved]}.items():
    accuracy = np.asarray(loss(merge(pair), *test)[1]["accuracy"])
    print(f"{name}: {accuracy:.1%}")
