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
# # Where the gradient is stuck
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/)
#
# Read back-propagation as a flow: the gradient starts at the loss and has to reach the data through
# the layers. Give each layer a capacity, and the most that can get through is the minimum cut, the
# narrowest set of layers between loss and data. `pfn` finds it inside the compiled training step,
# and can multiply the gradients there. Here we find a bottleneck, ask two capacities about it,
# watch it while the network trains, and see what amplifying does, and what it does not.

# %%
import sys

if "google.colab" in sys.modules:
    from importlib.metadata import version

    JAX = version("jax")  # the one for this machine's GPU or TPU: it stays
    # %pip install --quiet "pfn_optax[plot,flax]" "jax=={JAX}" scikit-learn tensorflow-datasets

# %%
import functools
import html
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx
from IPython.display import HTML
from sklearn.datasets import load_digits

from pfn_optax import (
    cut_report,
    draw_flow,
    flow_html,
    flow_value,
    graph_from_loss,
    pfn,
    unit_graph,
    with_pfn,
)

# "quick" as the tests run it, "small" on a CPU, "full" on a GPU or TPU
SETTING = os.environ.get("PFN_OPTAX_SETTING", "small" if jax.default_backend() == "cpu" else "full")
WIDTH, BATCH_SIZE, NUM_STEPS, EVERY, NUM_SEEDS = {
    "quick": (8, 32, 20, 5, 1),
    "small": (16, 64, 500, 20, 3),
    "full": (64, 256, 3000, 100, 5),
}[SETTING]

# %% [markdown]
# ## Images
#
# Handwritten digits, 8 x 8 pixels, on a CPU; CIFAR-10, 32 x 32 in colour, where there is a GPU.


# %%
def digits():
    bunch = load_digits()
    images, labels = bunch.images[..., None] / 16, bunch.target
    return (images[:1200], labels[:1200]), (images[1200:], labels[1200:])


def cifar10():
    import tensorflow_datasets as tfds  # downloads them, the first time

    def arrays(split):
        rows = [(row["image"], row["label"]) for row in tfds.data_source("cifar10", split=split)]
        images, labels = map(np.stack, zip(*rows, strict=True))
        return images / np.float32(255), labels

    return arrays("train"), arrays("test")


train, test = (
    (jnp.asarray(images, jnp.float32), jnp.asarray(labels))
    for images, labels in (cifar10() if SETTING == "full" else digits())
)
batch = train[0][:BATCH_SIZE], train[1][:BATCH_SIZE]
print(train[0].shape, test[0].shape)

# %% [markdown]
# ## A convolutional network with a waist
#
# Behind the stem, everything has to pass four channels. After it comes a residual block, so that
# there is a branch.


# %%
class Hourglass(nnx.Module):
    def __init__(self, rngs):
        conv = functools.partial(nnx.Conv, kernel_size=(3, 3), rngs=rngs)
        self.stem = conv(train[0].shape[-1], WIDTH)
        self.into = conv(WIDTH, 4)
        self.out = conv(4, WIDTH)
        self.first = conv(WIDTH, WIDTH)
        self.second = conv(WIDTH, WIDTH)
        self.head = nnx.Linear(WIDTH, 10, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.stem(x))
        x = nnx.relu(self.into(x))
        x = nnx.relu(self.out(x))
        x = x + self.second(nnx.relu(self.first(x)))
        return self.head(nnx.relu(x).mean((1, 2)))


structure, params = nnx.split(Hourglass(nnx.Rngs(0)))


def predict(params, x):
    return nnx.merge(structure, params)(x)


def loss(params, batch):
    x, labels = batch
    return optax.softmax_cross_entropy_with_integer_labels(predict(params, x), labels).mean()


# %% [markdown]
# How the layers are joined is read off the loss. Nothing is computed for it, and the sum of the
# residual block becomes a junction, with an identity edge around the block.

# %%
graph = graph_from_loss(loss, params, batch)
for edge in graph.edges:
    print(f"{edge.tail:10} -> {edge.head:10} by {edge.layer or 'identity'}")

# %% [markdown]
# ## Two capacities, two answers, both right
#
# `effective_rank` counts the directions that a layer lets through at one pixel. Four channels let
# through no more than four: the cut is the waist. `jacobian_rank`, the default, counts them over
# all pixels, which is what bounds the rank of the whole network: four channels at 64 pixels pass
# 256 directions, and the head passes ten. Its cut is the head, as in any healthy classifier. The
# first says where a layer is narrow beside others of its resolution, the second whether that must
# cost directions.


# %%
@functools.partial(jax.jit, static_argnames="capacity")
def diagnosed(params, capacity):
    watching = pfn(graph=graph, capacity=capacity, num_blocks=1, every=1, beta=0)
    _, state = watching.update(jax.grad(loss)(params, batch), watching.init(params), params)
    return state


_, panels = plt.subplots(1, 2, figsize=(11, 6), layout="constrained")
for axes, capacity in zip(panels, ("effective_rank", "jacobian_rank"), strict=True):
    state, options = diagnosed(params, capacity), {"graph": graph, "capacity": capacity}
    draw_flow(state, params, axes=axes, num_blocks=1, **options)
    print(capacity, cut_report(state, params, num_blocks=1, **options).bottlenecks)
plt.show()

# %% [markdown]
# The same picture to point at and to click on, with the table of the layers under it. It is a page
# of its own, `Path("flow.html").write_text(page)`.

# %%
WAIST = {"graph": graph, "capacity": "effective_rank", "num_blocks": 1}
page = flow_html(diagnosed(params, "effective_rank"), params, **WAIST)
HTML(f'<div><iframe srcdoc="{html.escape(page)}" width="100%" height="640"></iframe></div>')

# %% [markdown]
# And finer: on a graph of units an edge is a sub-matrix from one group of units to another, and a
# cut may run through several layers.

# %%
fine = unit_graph(loss, params, batch, block_size=8)
print(f"{len(graph.nodes)} nodes, or {len(fine.nodes)} with {fine.layout.num_blocks} blocks")

# %% [markdown]
# ## While it trains
#
# In front of the optimizer, with `beta=0`: it only watches. Most steps measure gradient norms,
# every `EVERY`-th one solves for the flow, and all of it lies in the optimizer's state.


# %%
@jax.jit
def accuracy(params):
    return (predict(params, test[0]).argmax(-1) == test[1]).mean()


def training(learning_rate=0.02, **options):
    """Returns a function from a seed to accuracies and reports; it is compiled once."""
    amplifying = pfn(every=EVERY, **WAIST, **options)
    optimizer = optax.chain(amplifying, optax.sgd(learning_rate, momentum=0.9))

    @jax.jit
    def step(params, state, key):
        chosen = jax.random.randint(key, (BATCH_SIZE,), 0, len(train[1]))
        gradients = jax.grad(loss)(params, (train[0][chosen], train[1][chosen]))
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    def run(seed):
        params = nnx.state(Hourglass(nnx.Rngs(seed)))
        state, curve, reports = optimizer.init(params), [], []
        for number, key in enumerate(jax.random.split(jax.random.key(seed), NUM_STEPS), 1):
            params, state = step(params, state, key)
            if number % EVERY == 0:
                curve.append(float(accuracy(params)))
                reports.append(cut_report(state, params, **WAIST))
        return curve, reports

    return run


plain = training(beta=0)
_, reports = plain(seed=0)

steps = [report.step for report in reports]
layers = [row.layer for row in reports[0]]
capacities = np.array([[row.capacity for row in report] for report in reports])
figure, (top, bottom) = plt.subplots(2, 1, figsize=(8, 6), sharex=True, layout="constrained")
for layer, values in zip(layers, capacities.T, strict=True):
    top.semilogy(steps, values, label=layer)
top.plot(steps, [report.flow for report in reports], "k--", label="maximum flow")
top.set_ylabel("capacity, directions")
top.legend(loc="center left", bbox_to_anchor=(1.02, 0.5))
in_cut = np.array([[row.in_cut for row in report] for report in reports])
persistence = np.array([[row.persistence + 1 for row in report] for report in reports])
shown = bottom.imshow(
    np.where(in_cut, persistence, 0).T,
    aspect="auto",
    cmap="Reds",
    extent=(steps[0] - EVERY / 2, steps[-1] + EVERY / 2, len(layers) - 0.5, -0.5),
)
bottom.set(yticks=range(len(layers)), yticklabels=layers, xlabel="step")
figure.colorbar(shown, ax=bottom, label="diagnoses in the cut, in a row")
plt.show()
print(reports[-1])

# %% [markdown]
# ## Does it help to push there?
#
# With `beta` at its default the gradients of the cut are multiplied by 2.8 at first, and by up to
# 6.85 as long as they stay in it. `renormalize=True` keeps the norm of the whole gradient and moves
# only the proportions. To amplify is to take larger steps, so a plain run that takes larger steps
# everywhere belongs beside it.

# %%
arms = {
    "plain": plain,
    "plain, 3 x the rate": training(learning_rate=0.06, beta=0),
    "pfn": training(),
    "pfn, renormalized": training(renormalize=True),
}
plt.figure(figsize=(6.5, 4))
for number, (name, arm) in enumerate(arms.items()):
    curves = np.array([arm(seed)[0] for seed in range(NUM_SEEDS)])
    plt.plot(steps, curves.T, color=f"C{number}", linewidth=0.6, alpha=0.6)
    plt.plot(steps, curves.mean(0), color=f"C{number}", linewidth=2, label=name)
    print(f"{name:19} {curves[:, -1].mean():.1%}, by seed", curves[:, -1].round(3))
plt.xlabel("step")
plt.ylabel("test accuracy (thin: each seed)")
plt.legend()
plt.show()

# %% [markdown]
# A few seeds say little. In [the study](../docs/claims.md), with more seeds and tuned learning
# rates, no setting beats every control: take the cut for what it is, a diagnosis, and amplify only
# against controls of your own.
#
# ## Behind Adam
#
# Adam divides the size of a gradient out, and with it any lasting multiplier. A constant gradient
# shows it: in front of Adam the factor fades within some hundred steps, around it (`with_pfn`) it
# stays.

# %%
toy = {"0_wide": jnp.eye(16), "1_narrow": jnp.ones((16, 1))}


def sizes(optimizer):
    """How large the updates of the narrow layer are, step by step."""

    def step(state, _):
        updates, state = optimizer.update(toy, state, toy)
        return state, jnp.abs(updates["1_narrow"]).max()

    return jax.lax.scan(step, optimizer.init(toy), length=3000)[1]


adam = optax.adam(1e-3)
alone = sizes(adam)
plt.figure(figsize=(6, 3.5))
for name, optimizer in {
    "optax.chain(pfn(), adam)": optax.chain(pfn(every=50), adam),
    "with_pfn(adam)": with_pfn(adam, every=50),
}.items():
    plt.plot(sizes(optimizer) / alone, label=name)
plt.axhline(1, color="grey", linewidth=0.8)
plt.xlabel("step")
plt.ylabel("update over that of plain Adam")
plt.legend()
plt.show()

# %% [markdown]
# ## The flow as a number to differentiate
#
# `flow_value` is the maximum flow as a function of the parameters. Its gradient is that of the cut,
# the cut held fixed, so climbing it widens the narrowest place until another one is as narrow. Here
# three layers of ten units, the middle one of rank one.

# %%
keys = jax.random.split(jax.random.key(0), 4)
chain = {name: jax.random.normal(key, (10, 10)) for name, key in zip("abc", keys, strict=False)}
chain["b"] = jnp.outer(chain["b"][0], chain["b"][1]) + 0.01 * jax.random.normal(keys[3], (10, 10))
climber = optax.adam(0.03)


@jax.jit
def climb(carry, _):
    chain, state = carry
    flow, slope = jax.value_and_grad(flow_value)(chain)
    updates, state = climber.update(jax.tree.map(jnp.negative, slope), state)
    ranks = [jnp.trace(w.T @ w) ** 2 / jnp.sum((w.T @ w) ** 2) for w in chain.values()]
    return (optax.apply_updates(chain, updates), state), (flow, jnp.stack(ranks))


_, (flows, ranks) = jax.lax.scan(climb, (chain, climber.init(chain)), length=200)
plt.figure(figsize=(6, 3.5))
plt.plot(ranks, label=[f"effective rank of {name}" for name in chain])
plt.plot(flows, "k--", label="maximum flow")
plt.xlabel("step")
plt.ylabel("directions")
plt.legend()
plt.show()

# %% [markdown]
# ## To read on
#
# [The guide](../docs/pfn.md): which capacity finds which fault, measured on 168 networks; what is
# exact and what is not; cost. [Graphs of real models](../docs/graphs.md): what is traced and how.
# [Growth](growth.ipynb): units added where the cut is.
