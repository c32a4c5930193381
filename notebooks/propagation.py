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
# # What depth does to signals
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/)
#
# Thirty layers multiply: activations of different inputs become one and the same, gradients vanish
# or explode. Here we see where theory puts the edge between the two, watch the rank of a batch fall
# with depth, and train a deep network while both are recorded inside of the compiled step.

# %%
import sys

if "google.colab" in sys.modules:
    from importlib.metadata import version

    JAX = version("jax")  # the one for this machine's GPU or TPU: it stays
    # %pip install --quiet "pfn_optax[plot,flax]" "jax=={JAX}" scikit-learn

# %%
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax
from flax import linen as nn
from sklearn.datasets import load_digits

from pfn_optax.drawing import draw_history, draw_phase_diagram
from pfn_optax.propagation import (
    activation_history,
    activation_monitor,
    activation_taps,
    critical_init,
    mean_field,
    propagation_history,
    propagation_monitor,
)

# "quick" as the tests run it, "small" on a CPU, "full" on a GPU or TPU
SETTING = os.environ.get("PFN_OPTAX_SETTING", "small" if jax.default_backend() == "cpu" else "full")

# %% [markdown]
# ## The edge of chaos
#
# At infinite width a random tanh network is in one of two phases. Where weights are small, all
# inputs end as one; where they are large, neighbours part. On the red line between them signals
# reach any depth. Colour is how many layers a correlation survives.

# %%
_, axes = plt.subplots(figsize=(6.4, 4))
draw_phase_diagram(
    jnp.tanh,
    marks={"LeCun": (1.0, 0.0), "critical": (critical_init(jnp.tanh, 0.3).weight_variance, 0.09)},
    resolution={"quick": 8, "small": 40, "full": 80}[SETTING],
    axes=axes,
)
plt.show()
for name, variance in (("ordered", 1.0), ("chaotic", 2.5)):
    found = mean_field(jnp.tanh, variance, 0.05)
    print(f"{name}: chi_1 {found.chi_1:.2f}, correlations live {found.xi_c:.1f} layers")

# %% [markdown]
# ## Rank against depth
#
# A real Flax model, tapped as it is. For each layer: how many directions a batch of digits still
# spans after it.

# %%
DEPTH, WIDTH = {"quick": (8, 64), "small": (32, 64), "full": (32, 256)}[SETTING]


class Deep(nn.Module):
    norm: bool = False
    residual: bool = False
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x):
        for layer in range(DEPTH):
            h = nn.Dense(WIDTH, kernel_init=self.kernel_init)(x)
            if self.norm:
                # By the batch at hand; nn.BatchNorm keeps running averages besides.
                h = (h - h.mean(0)) / jnp.sqrt(h.var(0) + 1e-5)
            h = nn.relu(h)
            x = x + h / DEPTH**0.5 if self.residual and layer else h
        return nn.Dense(10)(x)


digits = load_digits()
images = jnp.asarray((digits.data - digits.data.mean()) / digits.data.std(), jnp.float32)
labels = jnp.asarray(digits.target)
probe = images[:128]

he = critical_init(nn.relu).kernel
models = {
    "Flax's default": Deep(),
    "critical": Deep(kernel_init=he),
    "residual": Deep(kernel_init=he, residual=True),
    "batch norm": Deep(norm=True),
}


def tapped(model):
    params = model.init(jax.random.key(0), probe)
    taps = activation_taps(model.apply, params, probe)
    return params, taps


_, (left, right) = plt.subplots(1, 2, figsize=(11, 3.8))
for name, model in models.items():
    params, taps = tapped(model)
    layers = jax.jit(taps)(params, probe).layers
    hidden = [layers[layer] for layer in taps.names[:-1]]
    left.semilogy([one["activation_rank"] for one in hidden], label=name)
    right.semilogy([one["mean_square"] for one in hidden], label=name)
left.set(xlabel="layer", ylabel="activation rank")
right.set(xlabel="layer", ylabel="mean square of the preactivations")
right.legend()
plt.tight_layout()
plt.show()

# %% [markdown]
# Critical weights keep the size of the signal, which the default loses, but not its directions: the
# images become parallel all the same. Batch norm and shortcuts keep several.
#
# ## Training, watched
#
# Two monitors in the compiled step: one in the optimizer's chain, for gradients and updates of each
# layer, and one for activations. Their records cost memory of a fixed size.

# %%
STEPS, EVERY = {"quick": (20, 5), "small": (600, 20), "full": (3000, 50)}[SETTING]


def train(model):
    params, taps = tapped(model)
    watch = activation_monitor(taps, every=EVERY)
    optimizer = optax.chain(optax.adam(1e-3), propagation_monitor(every=EVERY))

    def loss(params, x, y):
        return optax.softmax_cross_entropy_with_integer_labels(model.apply(params, x), y).mean()

    @jax.jit
    def step(carry, key):
        params, state, seen = carry
        chosen = jax.random.randint(key, (128,), 0, len(labels))
        value, grads = jax.value_and_grad(loss)(params, images[chosen], labels[chosen])
        updates, state = optimizer.update(grads, state, params, grad=grads)
        params = optax.apply_updates(params, updates)
        return (params, state, watch.update(seen, params, probe)), value

    carry, losses = (params, optimizer.init(params), watch.init(params, probe)), []
    for key in jax.random.split(jax.random.key(1), STEPS):
        carry, value = step(carry, key)
        losses.append(float(value))
    _, state, seen = carry
    return losses, propagation_history(state, params), activation_history(seen, watch.names)


shown = ["Flax's default", "batch norm"]
figure, panels = plt.subplots(2, 2, figsize=(13, 9), layout="constrained")
curves = {}
for row, name in zip(panels, shown, strict=True):
    curves[name], gradients, activations = train(models[name])
    draw_history(activations, "activation_rank", axes=row[0])
    draw_history(gradients, "gradient_norm", axes=row[1])
    for axes in row:
        axes.set_title(name)
plt.show()

# %%
plt.figure(figsize=(6, 3.5))
for name, losses in curves.items():
    plt.plot(losses, label=name)
plt.axhline(float(jnp.log(10)), color="grey", linewidth=0.8)
plt.xlabel("step")
plt.ylabel("loss (grey: guessing)")
plt.legend()
plt.show()
assert sum(curves["batch norm"][-5:]) < sum(curves["batch norm"][:5])
