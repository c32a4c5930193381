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
# # Five minutes
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/)
#
# One small network, and what can be asked of it. Why does it learn badly? Where is its gradient
# stuck, while it trains? What if it were wider there? Then a look around: is another seed the same
# network, how sharp is the minimum, what does depth do to the signal, when does chaos begin?
# Each question has a notebook of its own; they are listed at the end.

# %%
import sys

if "google.colab" in sys.modules:
    from importlib.metadata import version

    JAX = version("jax")  # the one for this machine's GPU or TPU: it stays
    # %pip install --quiet "pfn_optax[plot,flax]" "jax=={JAX}" scikit-learn

# %%
import itertools
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax
from flax import nnx
from sklearn.datasets import load_digits

from pfn_optax import cut_report, diagnose, draw_flow, graph_from_loss, pfn
from pfn_optax.align import align, loss_barrier
from pfn_optax.curvature import extreme_eigenpairs, hessian_operator, spectral_density
from pfn_optax.drawing import draw_barrier
from pfn_optax.dynamics import lyapunov_spectrum
from pfn_optax.growth import grow_module
from pfn_optax.propagation import activation_taps
from pfn_optax.units import unit_spec

# "quick" as the tests run it, "small" on a CPU, "full" on a GPU or TPU
SETTING = os.environ.get("PFN_OPTAX_SETTING", "small" if jax.default_backend() == "cpu" else "full")
NUM_STEPS, WIDTH = {"quick": (80, 32), "small": (1200, 64), "full": (6000, 256)}[SETTING]

# %% [markdown]
# ## A network with a fault
#
# Handwritten digits, 8 x 8 pixels; a multi-layer perceptron in Flax. One of its layers is much too
# narrow. We know which; the library does not.

# %%
digits = load_digits()
images, labels = jnp.asarray(digits.data / 16, jnp.float32), jnp.asarray(digits.target)
train, test = (images[:1200], labels[:1200]), (images[1200:], labels[1200:])


def build(waist, seed=0):
    rngs, parts = nnx.Rngs(seed), []
    for fan_in, fan_out in itertools.pairwise([64, WIDTH, WIDTH, waist, WIDTH]):
        parts += [nnx.Linear(fan_in, fan_out, rngs=rngs), nnx.tanh]
    return nnx.Sequential(*parts, nnx.Linear(WIDTH, 10, rngs=rngs))


def loss(model, batch):
    x, y = batch
    return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()


model = build(waist=2)
batch = train[0][:128], train[1][:128]

# %% [markdown]
# ## What is wrong with it?
#
# One call, on one batch, before any training. Every finding rests on a measurement.

# %%
diagnosis = diagnose(loss, model, batch, optimizer=optax.adam(3e-3), max_seconds=600)
print(diagnosis)

# %% [markdown]
# `diagnosis` as the last line of a cell shows the same with pictures; see the notebook on
# diagnosis.
#
# ## Where is the gradient stuck, while it trains?
#
# `pfn` stands in front of any optimizer. The layers, as traced from the loss, are a network of
# pipes from the loss to the data; now and then it finds the maximum flow, inside the compiled step,
# and the minimum cut is where the gradient cannot get through. `beta=0` only watches.

# %%
structure, params = nnx.split(model)
graph = graph_from_loss(
    lambda params, batch: loss(nnx.merge(structure, params), batch), params, batch
)
watch = {"graph": graph, "num_blocks": 1}
optimizer = optax.chain(pfn(every=20, beta=0, **watch), optax.adam(3e-3))


@nnx.jit
def step(model, optimizer, key):
    chosen = jax.random.randint(key, (64,), 0, len(train[1]))
    gradients = nnx.grad(loss)(model, (train[0][chosen], train[1][chosen]))
    optimizer.update(model, gradients)


@nnx.jit
def accuracy(model):
    return (model(test[0]).argmax(-1) == test[1]).mean()


def fit(model, state, num_steps, seed=0):
    """Trains the model, and returns how accurate it was every 20 steps."""
    curve = []
    for number, key in enumerate(jax.random.split(jax.random.key(seed), num_steps), 1):
        step(model, state, key)
        if number % 20 == 0:
            curve.append(float(accuracy(model)))
    return curve


state = nnx.Optimizer(model, optimizer, wrt=nnx.Param)
before = fit(model, state, NUM_STEPS // 4)
params = nnx.state(model, nnx.Param)
print(cut_report(state.opt_state, params, **watch))
draw_flow(state.opt_state, params, **watch)

# %% [markdown]
# ## Wider there
#
# Eighteen new units that nothing reads yet: the function is the same, the optimizer keeps what it
# knows. Beside it the same training without them, and a network that was wide from the start, with
# another seed.

# %%
spec = unit_spec(lambda params, x: nnx.merge(structure, params)(x), params, images[:2])
print({group.name: group.size for group in spec.groups})
wide = grow_module(
    model,
    spec,
    "layers/4",
    18,
    how="fresh",
    key=jax.random.key(1),
    optimizer=state,
    inputs=(images[:8],),
)
grown, other = wide.module, build(waist=20, seed=1)
rest = NUM_STEPS - NUM_STEPS // 4
curves = {
    "wide from the start": fit(other, nnx.Optimizer(other, optimizer, wrt=nnx.Param), NUM_STEPS),
    "as it was": before + fit(model, state, rest, seed=1),
    "widened": before + fit(grown, wide.optimizer, rest, seed=1),
}
plt.figure(figsize=(6, 3.5))
for name, curve in curves.items():
    plt.plot(range(20, NUM_STEPS + 1, 20), curve, label=f"{name}: {curve[-1]:.1%}")
plt.axvline(NUM_STEPS // 4, color="grey", linewidth=0.8)
plt.xlabel("step (grey: 18 units more)")
plt.ylabel("test accuracy")
plt.legend()
plt.show()

# %% [markdown]
# ## Is another seed the same network?
#
# Hidden units have no order, and those of tanh no sign. Put the units of a second network where the
# first has its own, and the loss along the line between the two shows how far they were one network
# in disguise: the hill is lower. Networks as narrow as these keep a part of it; wide ones, in the
# notebook on alignment, lose it.

# %%
structure, a = nnx.split(grown)
b = nnx.state(other)


def predict(params, x):
    return nnx.merge(structure, params)(x)


def params_loss(params, x, y):
    return optax.softmax_cross_entropy_with_integer_labels(predict(params, x), y).mean()


found = align(a, b, unit_spec(predict, a, images[:2]))
print(f"squared distance {found.before:.0f} -> {found.after:.0f}")
num_points = 5 if SETTING == "quick" else 25
barriers = {
    name: loss_barrier(params_loss, a, end, {"test": [test]}, num_points=num_points)
    for name, end in {"as they are": b, "matched": found.params}.items()
}
draw_barrier(barriers)

# %% [markdown]
# ## How sharp is the minimum?
#
# The Hessian is never formed: products with it give its extreme eigenvalues, each with the norm of
# its residual, and the density of all others.

# %%
hessian = hessian_operator(params_loss, a, *train)
ends = extreme_eigenpairs(hessian, 1, which="both")
print("largest and smallest eigenvalue:", ends.values, "with residuals", ends.residuals)
density = spectral_density(hessian, num_steps=16 if SETTING == "quick" else 64, num_probes=4)
plt.figure(figsize=(6, 3.5))
plt.semilogy(density.grid, density.density + 1e-8)
plt.ylim(bottom=1e-6)
plt.xlabel("eigenvalue of the Hessian")
plt.ylabel("density")
plt.show()

# %% [markdown]
# ## What does depth do to the signal?
#
# Taps measure every layer of the model as it is: here how many directions a batch of images still
# spans behind it. Two units can pass no more than two.

# %%
narrow_structure, narrow = nnx.split(model)
plt.figure(figsize=(6, 3.5))
for name, own, values in (("as it was", narrow_structure, narrow), ("widened", structure, a)):
    taps = activation_taps(lambda params, x, own=own: nnx.merge(own, params)(x), values, batch[0])
    layers = jax.jit(taps)(values, batch[0]).layers
    plt.plot(
        taps.names, [layers[layer]["activation_rank"] for layer in taps.names], "o-", label=name
    )
plt.ylabel("activation rank")
plt.legend()
plt.show()

# %% [markdown]
# ## When does chaos begin?
#
# A recurrent network, `h -> tanh(g W h)`: by how much do nearby states part per step, and so do
# gradients through time? Below zero they fade, above they explode.

# %%
weights = jax.random.normal(jax.random.key(0), (WIDTH, WIDTH)) / WIDTH**0.5
start = jax.random.normal(jax.random.key(1), (WIDTH,))
gains = jnp.linspace(0.5, 2.5, 5 if SETTING == "quick" else 21)


@jax.jit
@jax.vmap
def spectrum(gain):
    return lyapunov_spectrum(
        lambda h: jnp.tanh(gain * weights @ h),
        start,
        num_exponents=1,
        num_steps=300,
        num_transient=100,
    )


exponents = spectrum(gains)
plt.figure(figsize=(6, 3.5))
plt.errorbar(gains, exponents.exponents[:, 0], exponents.standard_error[:, 0], fmt="o-")
plt.axhline(0, color="grey", linewidth=0.8)
plt.xlabel("gain of the weights")
plt.ylabel("leading Lyapunov exponent, nats per step")
plt.show()

# %% [markdown]
# ## From here
#
# | question | notebook |
# | --- | --- |
# | My network does not train. Why? | [diagnosis](diagnosis.ipynb) |
# | Where is the gradient stuck, and does it help to push there? | [pfn](pfn.ipynb) |
# | Can it grow by itself where it is too narrow? | [growth](growth.ipynb) |
# | Are two networks the same, can they be merged? | [alignment](alignment.ipynb) |
# | What do the losses of narrow and wide networks share? | [landscape](landscape.ipynb) |
# | Why do signals fade or explode over depth? | [propagation](propagation.ipynb) |
# | And over time? | [dynamics](dynamics.ipynb) |
