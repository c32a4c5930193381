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
# # A network that does not train
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/)
#
# Eleven layers, two spirals, and a loss that stays where it was. We ask `diagnose` what is wrong,
# do what it says, and train again.

# %%
import sys

if "google.colab" in sys.modules:
    from importlib.metadata import version

    JAX = version("jax")  # the one for this machine's GPU or TPU: it stays
    # %pip install --quiet "pfn_optax[plot,flax,diagnosis]" "jax=={JAX}"

# %%
import itertools
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx

from pfn_optax import diagnose

# "quick" as the tests run it, "small" on a CPU, "full" on a GPU or TPU
SETTING = os.environ.get("PFN_OPTAX_SETTING", "small" if jax.default_backend() == "cpu" else "full")
WIDTH, NUM_STEPS = {"quick": (32, 60), "small": (32, 1000), "full": (128, 4000)}[SETTING]
DEPTH = 10

# %% [markdown]
# ## The data, and a model as people write it
#
# "Small random weights", 0.02 as in many a code base.

# %%
draw = np.random.default_rng(0)
turn = np.sqrt(draw.uniform(0.03, 1, 256)) * 2 * np.pi
side = np.arange(256) % 2
angle = turn + np.pi * side
x = np.stack([turn * np.cos(angle), turn * np.sin(angle)], 1) / 4 + draw.normal(0, 0.03, (256, 2))
batch = jnp.asarray(x, jnp.float32), jnp.asarray(side)

plt.figure(figsize=(3, 3))
plt.scatter(*x.T, c=side, s=8, cmap="coolwarm")


def build(kernel_init):
    rngs, parts = nnx.Rngs(0), []
    for fan_in, fan_out in itertools.pairwise([2, *[WIDTH] * DEPTH]):
        parts += [nnx.Linear(fan_in, fan_out, kernel_init=kernel_init, rngs=rngs), nnx.relu]
    return nnx.Sequential(*parts, nnx.Linear(WIDTH, 2, rngs=rngs))


def loss(model, batch):
    x, labels = batch
    return optax.softmax_cross_entropy_with_integer_labels(model(x), labels).mean()


# %%
def trained(model, learning_rate=2e-3):
    optimizer = nnx.Optimizer(model, optax.adam(learning_rate), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        value, grads = nnx.value_and_grad(loss)(model, batch)
        optimizer.update(model, grads)
        return value

    return [float(step(model, optimizer)) for _ in range(NUM_STEPS)]


small = nnx.initializers.normal(0.02)
losses = trained(build(small))
print(f"loss {losses[0]:.4f} -> {losses[-1]:.4f}, chance is {np.log(2):.4f}")

# %% [markdown]
# ## What is wrong?

# %%
diagnosis = diagnose(loss, build(small), batch, optimizer=optax.adam(2e-3))
diagnosis  # noqa: B018

# %% [markdown]
# The same as plain text. `rich.print(diagnosis)` prints it in colours, `diagnosis.html("a.html")`
# writes a page, and `python -m pfn_optax diagnose module:factory` does it all from a terminal.

# %%
print(diagnosis)

# %% [markdown]
# ## Mended
#
# With weights of variance 2 / fan-in the mean square of the signal is the same in all ReLU layers.

# %%
mended = nnx.initializers.he_normal()
after = diagnose(loss, build(mended), batch, optimizer=optax.adam(2e-3))
print(str(after).splitlines()[0])

for name, found in (("small weights", diagnosis), ("he_normal", after)):
    norms = [layer.gradient_norm for layer in found.layers]
    plt.semilogy(norms, "o-", label=name)
plt.gca().set(xlabel="layer", ylabel="norm of the gradient")
plt.legend()

# %%
losses_after = trained(build(mended))
plt.figure()
plt.plot(losses, label="small weights")
plt.plot(losses_after, label="he_normal")
plt.gca().set(xlabel="step", ylabel="loss")
plt.legend()
print(f"loss {losses_after[0]:.4f} -> {losses_after[-1]:.4f}")
