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
# # A network that is too narrow heals itself
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/)
#
# Somewhere in this network two units stand where ten classes must pass. We do not say where. The
# minimum cut of the flow from the loss to the data finds the place while the network trains, and a
# controller adds units there, without changing the function, until the cut has moved elsewhere.

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
from flax import nnx
from sklearn.datasets import load_digits

from pfn_optax import pfn
from pfn_optax.drawing import draw_widths
from pfn_optax.growth import Budget, GrowthController, widths
from pfn_optax.units import unit_spec

# "quick" as the tests run it, "small" on a CPU, "full" on a GPU or TPU
SETTING = os.environ.get("PFN_OPTAX_SETTING", "small" if jax.default_backend() == "cpu" else "full")
NUM_STEPS, EVERY = {"quick": (200, 10), "small": (800, 20), "full": (4000, 50)}[SETTING]

# %% [markdown]
# ## A network with a waist
#
# Handwritten digits, five hidden layers, a batch norm behind each. The fourth has two units.

# %%
digits = load_digits()
images, labels = jnp.asarray(digits.data / 16, jnp.float32), jnp.asarray(digits.target)
train, test = (images[:1200], labels[:1200]), (images[1200:], labels[1200:])
SIZES = (64, 32, 32, 32, 2, 32, 10)


def build(sizes=SIZES, seed=0):
    rngs = nnx.Rngs(seed)
    parts = []
    for number, size in enumerate(sizes[1:-1]):
        parts += [
            nnx.Linear(sizes[number], size, rngs=rngs),
            nnx.BatchNorm(size, momentum=0.9, rngs=rngs),
            nnx.relu,
        ]
    return nnx.Sequential(*parts, nnx.Linear(*sizes[-2:], rngs=rngs))


def loss(model, batch):
    x, y = batch
    return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()


@nnx.jit
def train_step(model, optimizer, batch):
    value, gradients = nnx.value_and_grad(loss)(model, batch)
    optimizer.update(model, gradients)
    return value


@nnx.jit
def accuracy(model):
    return (model(test[0]).argmax(-1) == test[1]).mean()


def batches(seed=0):
    keys = jax.random.split(jax.random.key(seed), NUM_STEPS)
    for step, key in enumerate(keys, 1):
        chosen = jax.random.randint(key, (64,), 0, len(train[1]))
        yield step, (train[0][chosen], train[1][chosen])


# %% [markdown]
# ## Which weights belong to a unit
#
# Traced from a forward pass: adding a unit means a column here, a row there, an entry of a bias, a
# scale, a running mean.

# %%
model = build()
model.eval()  # where the running statistics are read
graph, variables = nnx.split(model)
spec = unit_spec(lambda variables, x: nnx.merge(graph, variables)(x), variables, train[0][:2])
print(widths(spec))

# %% [markdown]
# ## Training, with the controller in the loop
#
# `pfn` stands in the optimizer's chain and only watches (`beta=0`): every few steps it solves for
# the minimum cut. The controller reads what it found. A group that was in the cut twice in a row
# doubles, up to the budget. What the optimizer knows of the old units stays.


# %%
def fit(model, spec=None):
    tx = optax.chain(pfn(every=EVERY, num_blocks=1, beta=0.0), optax.adam(3e-3))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    controller = None
    if spec is not None:
        budget = Budget(params=8000)
        controller = GrowthController(spec, tx, budget=budget, chunk=2, num_blocks=1)
    curve = []
    for step, batch in batches():
        model.train()
        train_step(model, optimizer, batch)
        if step % EVERY == 0:
            model.eval()
            if controller is not None:
                model, _, optimizer, decision = controller.step_module(
                    model, optimizer, inputs=(test[0][:8],), step=step
                )
                if decision.has_changed:
                    print(decision)
            curve.append((step, float(accuracy(model))))
    return model, optimizer, controller, curve


grown, optimizer, controller, grown_curve = fit(build(), spec)

# %% [markdown]
# The waist is found at the first look and grows until it is as wide as the rest; then the cut moves
# on. Each change cost one compilation:

# %%
print(f"{controller.record.num_changes} changes, {widths(controller.spec)}")
draw_widths(controller.record)

# %% [markdown]
# ## Was it worth it?
#
# Beside it: the network left as it was, and one that never had the waist.

# %%
*_, narrow_curve = fit(build())
*_, wide_curve = fit(build((64, 32, 32, 32, 32, 32, 10)))
plt.figure(figsize=(6.4, 3.8))
for name, curve in {"grown": grown_curve, "narrow": narrow_curve, "wide": wide_curve}.items():
    plt.plot(*zip(*curve, strict=True), label=f"{name}: {curve[-1][1]:.3f} at the end")
for change in controller.record.changes:
    plt.axvline(change.step, color="grey", linewidth=0.6)
plt.xlabel("step (grey: the network grew)")
plt.ylabel("test accuracy")
plt.legend()
plt.show()
assert SETTING == "quick" or grown_curve[-1][1] > narrow_curve[-1][1]

# %% [markdown]
# ## What a checkpoint needs
#
# The architecture belongs to it: `controller.record.to_dict()`, beside the values. A later process
# builds the narrow network and asks the controller for one of the right sizes to read them into.

# %%
record = controller.record.to_dict()
tx = optax.chain(pfn(every=EVERY, num_blocks=1, beta=0.0), optax.adam(3e-3))
fresh = build()
again = GrowthController(spec, tx, budget=Budget(params=8000), chunk=2, num_blocks=1)
restored, restored_optimizer = again.restore_module(
    record, fresh, nnx.Optimizer(fresh, tx, wrt=nnx.Param)
)
nnx.update(restored, nnx.state(grown))  # from disk, as a rule: orbax.checkpoint
nnx.update(restored_optimizer, nnx.state(optimizer))
restored.eval()
print(bool(jnp.array_equal(restored(test[0]), grown(test[0]))), restored.layers[9].out_features)
