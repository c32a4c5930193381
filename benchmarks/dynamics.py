"""Lyapunov spectra of a random network, beside a loop in NumPy.

    OPENBLAS_NUM_THREADS=1 python -m benchmarks.dynamics [--json PATH] [--repeats 3]

h -> tanh(W h) at gain 1.5, in float32. The peer forms the Jacobian diag(1 - h^2) W, multiplies the
columns by it and calls `numpy.linalg.qr`, with the same number of steps between decompositions.
Threads of OpenBLAS beside those of XLA slow both sides down, hence one thread. Medians of runs in
turns. lyapynov, a library in NumPy that takes the Jacobian too, is timed where it is installed
(`pip install lyapynov`).

- `spectra`: 128 units, all exponents and the first 16, some steps between decompositions;
- `batch`: the same network from several states at once;
- `library`: the same network, and the Lorenz flow, beside lyapynov;
- `costs`: a step against the size of the state and the number of exponents, beside its parts, k
  Jacobian-vector products and a QR decomposition.
"""

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from benchmarks import tables
from benchmarks.records import environment, write
from benchmarks.timing import interleaved_medians
from pfn_optax.dynamics import DynamicsStatus, classic, lyapunov_spectrum, rk4
from pfn_optax.dynamics.basis import orthonormalise

GAIN, SIZE = 1.5, 128
SPECTRA = ((SIZE, 1), (SIZE, 2), (16, 1), (16, 5))  # exponents, steps between decompositions
LIBRARY = (("tanh network", SIZE), ("tanh network", 16), ("Lorenz flow", 3))
LORENZ_STEP = 0.01  # units of time
COSTS = ((32, 32), (64, 64), (128, 128), (256, 256), (512, 8), (512, 32), (512, 128))


@dataclass(frozen=True)
class Config:
    """What to time.

    Attributes:
        num_steps: steps of each run.
        batch: states at once.
        repeats: timed runs of each function; the median counts.
        json: where to write the numbers, if anywhere.
    """

    num_steps: int = 200
    batch: int = 8
    repeats: int = 3
    json: Path | None = None


def draw_weights(size: int) -> np.ndarray:
    """Weights of the network."""
    draw = np.random.default_rng(0)
    return (GAIN / size**0.5 * draw.normal(size=(size, size))).astype(np.float32)


def by_numpy(weights: np.ndarray, k: int, qr_every: int, num_steps: int) -> np.ndarray:
    """Exponents f[k] as one writes it in NumPy."""
    size = len(weights)
    state, columns = np.full(size, 0.1, np.float32), np.eye(size, k, dtype=np.float32)
    total = np.zeros(k)
    for step in range(1, num_steps + 1):
        state = np.tanh(weights @ state)
        columns = ((1 - state**2)[:, None] * weights) @ columns
        if step % qr_every == 0:
            columns, r = np.linalg.qr(columns)
            total += np.log(np.abs(np.diag(r)))
    return total / num_steps


def ours(weights: jax.Array, k: int, qr_every: int, num_steps: int) -> Any:
    """The same, compiled: state -> spectrum, from the same columns."""
    basis = jnp.eye(k, len(weights))

    def run(state):
        return lyapunov_spectrum(
            lambda h: jnp.tanh(weights @ h),
            state,
            num_steps=num_steps,
            qr_every=qr_every,
            basis=basis,
        )

    return run


def measure_spectra(config: Config) -> list[dict[str, Any]]:
    """Times both at each number of exponents and of steps between decompositions."""
    weights, rows = draw_weights(SIZE), []
    states = 0.1 * jnp.ones((config.batch, SIZE)) * jnp.linspace(0.5, 1, config.batch)[:, None]
    for k, qr_every in SPECTRA:
        run = ours(jnp.asarray(weights), k, qr_every, config.num_steps)
        single, many = jax.jit(run), jax.jit(jax.vmap(run))
        peer = by_numpy(weights, k, qr_every, config.num_steps)
        found = single(jnp.full(SIZE, 0.1))
        seconds = interleaved_medians(
            {
                "ours": lambda single=single: single(jnp.full(SIZE, 0.1)),
                "ours, batch": lambda many=many: many(states),
                "NumPy": lambda k=k, q=qr_every: by_numpy(weights, k, q, config.num_steps),
            },
            config.repeats,
        )
        rows.append(
            {
                "num_exponents": k,
                "qr_every": qr_every,
                "status": DynamicsStatus(int(found.status)).name,
                "largest_distance": float(np.abs(found.exponents - peer).max()),
                "milliseconds_per_step": {
                    name: 1e3
                    * time
                    / config.num_steps
                    / (config.batch if name.endswith("batch") else 1)
                    for name, time in seconds.items()
                },
            }
        )
    return rows


def by_lyapynov(system: str, k: int, num_steps: int) -> Callable[[], np.ndarray]:
    """The exponents of the network, or of the Lorenz flow, by lyapynov."""
    peer = importlib.import_module("lyapynov")
    if system == "Lorenz flow":
        start = np.array([1.0, 1.0, 25.0])

        def velocity(x, time):
            return np.array(
                [10 * (x[1] - x[0]), x[0] * (28 - x[2]) - x[1], x[0] * x[1] - 8 / 3 * x[2]]
            )

        def flow_jacobian(x, time):
            return np.array([[-10, 10, 0], [28 - x[2], -1, -x[0]], [x[1], x[0], -8 / 3]])

        return lambda: peer.LCE(
            peer.ContinuousDS(start, 0.0, velocity, flow_jacobian, LORENZ_STEP),
            k,
            0,
            num_steps,
            False,
        )
    weights = draw_weights(SIZE)

    def jacobian(x, time):
        return (1 - np.tanh(weights @ x) ** 2)[:, None] * weights

    start = np.full(SIZE, 0.1, np.float32)
    return lambda: peer.LCE(
        peer.DiscreteDS(start, 0, lambda x, time: np.tanh(weights @ x), jacobian),
        k,
        0,
        num_steps,
        False,
    )


def measure_library(config: Config) -> list[dict[str, Any]]:
    """Times ours and lyapynov, a decomposition at every step; nothing where it is missing."""
    rows = []
    for system, k in LIBRARY if importlib.util.find_spec("lyapynov") else ():
        if system == "Lorenz flow":
            start = jnp.array([1.0, 1.0, 25.0])
            step = rk4(classic.lorenz, LORENZ_STEP)

            def run(state, step=step):
                return lyapunov_spectrum(
                    step, state, num_steps=config.num_steps, time_step=LORENZ_STEP
                )
        else:
            start = jnp.full(SIZE, 0.1)
            run = ours(jnp.asarray(draw_weights(SIZE)), k, 1, config.num_steps)
        compiled, theirs = jax.jit(run), by_lyapynov(system, k, config.num_steps)
        seconds = interleaved_medians(
            {"ours": lambda f=compiled, x=start: f(x), "lyapynov": theirs}, config.repeats
        )
        rows.append(
            {
                "system": system,
                "num_exponents": k,
                "milliseconds_per_step": {
                    name: 1e3 * time / config.num_steps for name, time in seconds.items()
                },
            }
        )
    return rows


def measure_costs(config: Config) -> list[dict[str, Any]]:
    """Times a step, the products alone and the decomposition alone."""
    rows = []
    for size, k in COSTS:
        weights = jnp.asarray(draw_weights(size))
        columns = jnp.eye(size, k) + 0.01

        def repeated(function, columns=columns):
            return jax.jit(
                lambda: jax.lax.scan(
                    lambda carry, _: (function(*carry), None),
                    (jnp.full(len(columns), 0.1), columns),
                    length=config.num_steps // 4,
                )[0]
            )

        def products(state, columns, weights=weights):
            def along(column):
                return jax.jvp(lambda h: jnp.tanh(weights @ h), (state,), (column,))

            return jax.vmap(along, in_axes=1, out_axes=(None, 1))(columns)

        def decomposition(state, columns):
            # The shift keeps the decomposition in the loop.
            return state, orthonormalise(columns + 0.01)[0]

        spectrum = jax.jit(ours(weights, k, 1, config.num_steps // 4))
        seconds = interleaved_medians(
            {
                "spectrum": lambda spectrum=spectrum, n=size: spectrum(jnp.full(n, 0.1)),
                "products": repeated(products),
                "QR": repeated(decomposition),
            },
            config.repeats,
        )
        per_step = {name: 4e3 * time / config.num_steps for name, time in seconds.items()}
        rows.append({"size": size, "num_exponents": k, "milliseconds_per_step": per_step})
    return rows


def main(config: Config) -> None:
    """Times everything and prints the tables."""
    record = {
        **environment(),
        "size": SIZE,
        "num_steps": config.num_steps,
        "batch": config.batch,
        "spectra": measure_spectra(config),
        "library": measure_library(config),
        "costs": measure_costs(config),
    }
    print(tables.dynamics(record))
    write(record, config.json)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
