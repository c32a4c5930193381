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
# # A narrow network inside a wide one
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/)
#
# The loss of a wide network contains the critical points of every narrower one. Here we find a
# critical point, split a unit, predict and count what that does to the Hessian, and take a small
# network out of a wide one again.

# %%
import sys

if "google.colab" in sys.modules:
    from importlib.metadata import version

    JAX = version("jax")  # the one for this machine's GPU or TPU: it stays
    # %pip install --quiet "pfn_optax[plot]" "jax=={JAX}"

# %%
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from pfn_optax.curvature import hessian_eigenvalues, inertia
from pfn_optax.landscape import condense, embed, find_critical_point, predicted_inertia
from pfn_optax.units import unit_spec

# "quick" as the tests run it, "small" on a CPU, "full" on a GPU or TPU
SETTING = os.environ.get("PFN_OPTAX_SETTING", "small" if jax.default_backend() == "cpu" else "full")
jax.config.update("jax_enable_x64", True)  # signs of small eigenvalues need it

# %% [markdown]
# ## A minimum of a network of two units

# %%
x = np.linspace(-1.5, 1.5, 20)[:, None]
y = x**3 - x


def predict(params, x):
    return jnp.tanh(x @ params["w"] + params["b"]) @ params["a"]


def loss(params, x, y):
    return jnp.mean((predict(params, x) - y) ** 2)


draw = np.random.default_rng(0)
shapes = {"w": (1, 2), "b": (2,), "a": (2, 1)}
start = {name: draw.normal(size=shape) for name, shape in shapes.items()}
point = find_critical_point(loss, start, x, y, tolerance=1e-13)
print(point.status, "|g| =", f"{point.gradient_norm:.0e}", "loss =", f"{point.loss:.4f}")

fig, axes = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
axes[0].plot(x, y, "k.", label="data")
axes[0].plot(x, predict(point.params, x), label="two units")
axes[0].legend()
axes[1].semilogy(point.gradient_norms)
axes[1].set(xlabel="evaluation", ylabel="sum of |gradient|")

# %% [markdown]
# ## Split a unit
#
# (w, a) becomes (w, αa) and (w, (1 - α)a). The outputs stay, the gradient stays zero; the minimum
# becomes a saddle. What a split adds to the counts of negative, zero and positive eigenvalues is
# known beforehand, from a block of a few numbers.

# %%
spec = unit_spec(predict, point.params, x[:2])
w, b, a = (point.params[name] for name in "wba")
errors = 2 * (np.tanh(x @ w + b) @ a - y) / len(x)
added = predicted_inertia(
    jnp.tanh, np.hstack([x, np.ones_like(x)]), [w[0, 0], b[0]], a[0], errors, alpha=0.5
)
narrow = inertia(hessian_eigenvalues(loss, point.params, x, y))
wide = embed(point.params, spec, spec.groups[0].name, 0, alpha=0.5)
counts = inertia(hessian_eigenvalues(loss, wide.params, x, y))
print("outputs differ by", np.abs(predict(wide.params, x) - predict(point.params, x)).max())
for name in ("negative", "zero", "positive"):
    was, more, now = (getattr(part, name) for part in (narrow, added, counts))
    print(f"{name:8} {was} + {more} predicted, {now} counted")

# %% [markdown]
# ## And back: condensation
#
# Trained from small weights, the units of a wide ReLU network gather on a few directions.
# `condense` keeps one unit of each.

# %%
WIDTH, NUM_STEPS = {"quick": (20, 500), "small": (100, 20_000), "full": (400, 60_000)}[SETTING]


def relu_net(params, x):
    return jax.nn.relu(x @ params["w"] + params["b"]) @ params["a"]


def relu_loss(params, x, y):
    return jnp.mean((relu_net(params, x) - y) ** 2)


@jax.jit
def trained(params):
    optimizer = optax.sgd(0.05)

    def step(carry, _):
        params, state = carry
        value, grads = jax.value_and_grad(relu_loss)(params, x, y)
        updates, state = optimizer.update(grads, state)
        return (optax.apply_updates(params, updates), state), value

    (params, _), losses = jax.lax.scan(step, (params, optimizer.init(params)), length=NUM_STEPS)
    return params, losses


shapes = {"w": (1, WIDTH), "b": (WIDTH,), "a": (WIDTH, 1)}
params = {name: 0.1 / WIDTH * draw.normal(size=shape) for name, shape in shapes.items()}
params, losses = trained(params)
relu_spec = unit_spec(relu_net, params, x[:2])
small = condense(params, relu_spec, function=relu_net, batches=[(x,)])
sizes = [group.size for group in (*relu_spec.groups, *small.spec.groups)]
before, after = relu_loss(params, x, y), relu_loss(small.params, x, y)
print(f"{sizes[0]} -> {sizes[1]} units, loss {before:.4f} -> {after:.4f}")

fig, axes = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
angle, amplitude = (
    np.arctan2(params["b"], params["w"][0]),
    np.abs(params["a"][:, 0]) * np.hypot(params["b"], params["w"][0]),
)
axes[0].plot(angle, amplitude, ".", label="wide")
axes[0].plot(
    np.arctan2(small.params["b"], small.params["w"][0]),
    np.abs(small.params["a"][:, 0]) * np.hypot(small.params["b"], small.params["w"][0]),
    "o",
    fillstyle="none",
    label="condensed",
)
axes[0].set(xlabel="direction of (w, b)", ylabel="|a| |(w, b)|")
axes[0].legend()
axes[1].plot(x, y, "k.", label="data")
axes[1].plot(x, relu_net(params, x), label="wide")
axes[1].plot(x, relu_net(small.params, x), "--", label="condensed")
axes[1].legend()
