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
# # Chaos, and gradients that survive it
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/)
#
# A recurrent network with strong weights is chaotic: nearby states part exponentially, and so do
# gradients through time. Here we measure how fast, see back-propagation explode, take the gradient
# by other means, and bring a network to the edge of chaos before training it.

# %%
import sys

if "google.colab" in sys.modules:
    from importlib.metadata import version

    JAX = version("jax")  # the one for this machine's GPU or TPU: it stays
    # %pip install --quiet "pfn_optax[plot]" "jax=={JAX}"

# %%
import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # LAPACK's threads and XLA's clash

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax

from pfn_optax.dynamics import (
    classic,
    flossing_loss,
    kaplan_yorke_dimension,
    lyapunov_spectrum,
    value_and_grad_long,
)

# "quick" as the tests run it, "small" on a CPU, "full" on a GPU or TPU
SETTING = os.environ.get("PFN_OPTAX_SETTING", "small" if jax.default_backend() == "cpu" else "full")

# %% [markdown]
# ## From order to chaos
#
# `h -> tanh(g W h)` with random weights. All states die out below a gain of one; above it the
# leading Lyapunov exponent turns positive.

# %%
NUM_UNITS, NUM_GAINS, NUM_STEPS = {
    "quick": (32, 6, 100),
    "small": (100, 26, 500),
    "full": (128, 26, 2000),
}[SETTING]
weights = jax.random.normal(jax.random.key(0), (NUM_UNITS, NUM_UNITS)) / NUM_UNITS**0.5
start = jax.random.normal(jax.random.key(1), (NUM_UNITS,))
gains = jnp.linspace(0.5, 3.0, NUM_GAINS)


@jax.jit
@jax.vmap
def spectrum(gain):
    return lyapunov_spectrum(
        lambda h: jnp.tanh(gain * weights @ h),
        start,
        num_steps=NUM_STEPS,
        num_transient=200,
    )


found = spectrum(gains)
plt.figure(figsize=(6, 3.5))
plt.axhline(0, color="grey", linewidth=0.8)
for i in range(4):
    plt.errorbar(
        gains, found.exponents[:, i], found.standard_error[:, i], label=f"$\\lambda_{i + 1}$"
    )
plt.xlabel("gain of the weights")
plt.ylabel("exponent, nats per step")
plt.legend()
plt.show()
print(f"dimension of the attractor, of {NUM_UNITS}:")
for gain, exponents in zip(gains[::5], found.exponents[::5], strict=True):
    print(f"  gain {gain:.1f}: {kaplan_yorke_dimension(exponents):.1f}")

# %% [markdown]
# ## Back-propagation explodes
#
# We ask how the mean height of the Lorenz attractor changes with its parameter $\rho$. The answer
# is 1.00, by differences of large ensembles. Back-propagation through one trajectory gives the
# derivative of that trajectory, which has nothing to do with it. Shadowing stays.

# %%
TIME_STEP = 0.01


def velocity(rho, x):
    return classic.lorenz(x, rho=rho)


def step(rho, x):  # one Euler step, to see all that is needed; `rk4` is the better one
    return x + TIME_STEP * velocity(rho, x)


def height(rho, x):
    return x[2]


horizons = [100 * 2**i for i in {"quick": (0, 2), "small": range(7), "full": range(8)}[SETTING]]
results = {"backprop": [], "shadowing": []}
for num_steps in horizons:
    shared = {"num_steps": num_steps, "num_transient": 1000}
    methods = {
        "backprop": value_and_grad_long(step, height, **shared),
        "shadowing": value_and_grad_long(
            step, height, method="shadowing", num_unstable=1, velocity=velocity, **shared
        ),
    }
    for name, method in methods.items():
        gradient = method(
            jnp.float32(28), jnp.array([1.0, 1.0, 25.0]), key=jax.random.key(0)
        ).gradient
        results[name].append(abs(float(gradient)))

plt.figure(figsize=(6, 3.5))
for name, values in results.items():
    plt.semilogy(TIME_STEP * jnp.array(horizons), values, "o-", label=name)
plt.axhline(1, color="grey", linewidth=0.8)
plt.xlabel("length of the trajectory")
plt.ylabel("|gradient|")
plt.legend()
plt.show()

# %% [markdown]
# ## Flossing: exponents near zero before training
#
# The mean square of the leading exponents is a loss. A few steps on it alone bring a network whose
# gradients vanish to the edge, where they neither vanish nor explode.


# %%
def exponents_loss(weights):
    return flossing_loss(
        lambda h: jnp.tanh(weights @ h), start, num_steps=60, num_transient=20, num_exponents=8
    )


@jax.jit
def train(weights, state):
    value, gradient = jax.value_and_grad(exponents_loss)(weights)
    updates, state = optimizer.update(gradient, state, weights)
    return optax.apply_updates(weights, updates), state, value


optimizer = optax.adam(3e-3)
flossed = 0.5 * weights
state, history = optimizer.init(flossed), []
for _ in range({"quick": 10, "small": 100, "full": 300}[SETTING]):
    flossed, state, value = train(flossed, state)
    history.append(float(value))
plt.figure(figsize=(6, 3.5))
plt.semilogy(history)
plt.xlabel("step")
plt.ylabel("mean square of the exponents")
plt.show()
assert history[-1] < history[0]
