"""Gradients that train chaotic networks: the pieces are right, and the commands work."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.__main__ import main
from experiments.dynamics import (
    KernelDepthExperiment,
    LongMemoryExperiment,
    PFNChaosExperiment,
    kernel_depth,
    learning,
    long_memory,
    pfn_chaos,
)
from experiments.dynamics.recurrent import Task, gradient_by, init, loss, sequences
from experiments.errors import UsageError
from experiments.statistics import bootstrap_difference
from pfn_optax import pfn

pytestmark = pytest.mark.usefixtures("unoptimized")

TASK = Task(num_units=8, horizon=6, gain=1.5, batch_size=4)


def test_the_target_is_the_product_of_the_signs():
    drawn = sequences(TASK, jax.random.key(0), 50)
    np.testing.assert_array_equal(
        drawn.targets[:, -1], drawn.inputs[:, 0, 0] * drawn.inputs[:, 1, 0]
    )
    assert 0 < np.abs(drawn.inputs[:, 2:]).max() < 1


def test_backpropagation_is_the_gradient_of_the_loss():
    params = init(TASK, jax.random.key(0))
    drawn = sequences(TASK, jax.random.key(1), 4)
    value, found = jax.jit(gradient_by("backprop", TASK, 2))(
        params, drawn, jax.random.key(2), jnp.float32(0)
    )
    expected, gradient = jax.jit(jax.value_and_grad(loss))(
        params, drawn.inputs, drawn.targets[:, -1]
    )
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), found, gradient
    )


def test_signal_to_noise_of_known_gradients():
    noise = jax.random.normal(jax.random.key(0), (4000, 2, 3))
    found = long_memory.signal_to_noise({"a": 5e18 * (1 + noise[:, 0]), "b": 5e18 * noise[:, 1]})
    np.testing.assert_allclose(found, np.sqrt(3 / 6), rtol=0.05)  # no overflow either
    alike = jnp.tile(jnp.array([[1.0], [-1.0]]), (50, 1))
    assert long_memory.signal_to_noise({"a": alike}) == 0


def test_the_learning_rate_is_picked_by_the_tuning_seeds():
    accuracy = np.full((3, 2 + len(learning.TUNING_SEEDS), 3), 0.5)
    accuracy[0, :2] = 1.0  # best on the seeds that are not asked
    accuracy[1, 2:] = 0.9
    record = {name: accuracy.tolist() for name in ("accuracy", "loss", "norm")}
    own = learning.pick(record)
    assert own.learning_rate == learning.LEARNING_RATES[1]
    np.testing.assert_array_equal(own.final, [0.5, 0.5])
    assert learning.by_rate(record) == [1.0, 0.5, 0.5]


def test_bootstrap_of_paired_differences():
    mean, low, high = bootstrap_difference([1.0, 1.0, 0.5, 1.0], [0.5, 0.5, 0.5, 0.5])
    assert (mean, low, high) == (0.375, 0.125, 0.5)
    many = np.random.default_rng(1).normal(2, 1, 400)
    mean, low, high = bootstrap_difference(many, np.zeros(400))
    assert high - low == pytest.approx(2 * 1.96 / 20, rel=0.1)


def test_random_blocks_get_the_multipliers_of_the_cut(monkeypatch):
    params = init(TASK, jax.random.key(0))
    graph = pfn_chaos.graph(TASK)
    assert {edge.layer for edge in graph.edges} == {"input", "recurrent", "head"}
    monkeypatch.setattr(pfn_chaos, "BLOCK_SIZE", 4)
    blocks = pfn_chaos.layout(TASK)
    diagnosis = pfn(graph=graph, block_size=4, every=1)
    drawn = pfn_chaos.on_random_blocks(diagnosis, blocks, jax.random.key(3))
    ones = jax.tree.map(jnp.ones_like, params)
    state, scaled, update = drawn.init(params), set(), jax.jit(drawn.update)
    for _ in range(8):
        updates, state = update(ones, state, params)
        factors = [float(np.max(leaf)) for leaf in jax.tree.leaves(updates)]
        expected = float(optax.tree.get(state, "pfn_multipliers").max())
        assert max(factors) == pytest.approx(expected)
        scaled.add(int(np.argmax(factors)))
    assert len(scaled) > 1


@pytest.mark.parametrize(
    ("experiment", "options", "message"),
    [
        (LongMemoryExperiment, {"seeds": 1}, "seeds must be at least 2; got 1"),
        (PFNChaosExperiment, {"rounds": 2}, "rounds must be at least 3; got 2"),
        (KernelDepthExperiment, {"groups": 1}, "groups must be at least 2, for a standard error"),
        (KernelDepthExperiment, {"steps": 0}, "steps must be at least 1; got 0"),
        (KernelDepthExperiment, {"noises": (0.5, 0.0)}, "noises must be positive numbers"),
    ],
)
def test_bad_options(experiment, options, message):
    with pytest.raises(UsageError, match=message):
        experiment(**options)


def outputs(folder):
    written = ["--json", str(folder / "a.json"), "--plot", str(folder / "a.png")]
    return ["--run-dir", str(folder / "run"), *written]


@pytest.mark.slow
def test_kernel_depth(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(kernel_depth, "GROUP", 50)
    monkeypatch.setattr(kernel_depth, "NUM_STEPS", 5)
    for method in ("backprop", "path kernel"):  # each is a program to compile
        monkeypatch.delitem(kernel_depth.METHODS, method)
    options = ["--noises", "0.5", "--groups", "40", "--steps", "3", *outputs(tmp_path)]
    assert main(["kernel-depth", *options]) == 0
    found = json.loads((tmp_path / "a.json").read_text())
    assert [row["parameter"] for row in found["responses"]] == ["shift", "gain", "bias", "weight"]
    for row in found["responses"]:  # over five layers every method has a finite spread
        truth = row["finite difference"]
        for method in kernel_depth.METHODS:
            own = row[method]
            error = np.hypot(own["standard_error"], truth["standard_error"])
            assert abs(own["mean"] - truth["mean"]) < 4 * error + 0.05 * abs(truth["mean"])
    assert (tmp_path / "a.png").stat().st_size > 10_000
    printed = capsys.readouterr().out
    assert main(["kernel-depth", *options]) == 0  # nothing is measured again
    assert capsys.readouterr().out == printed


@pytest.mark.parametrize(
    ("command", "module", "record"),
    [
        ("long-memory", long_memory.LongMemoryExperiment, {}),
        ("pfn-chaos", pfn_chaos.PFNChaosExperiment, {}),
    ],
)
def test_the_comparison(command, module, record, tmp_path, monkeypatch, capsys):
    """Of records that are given: what is trained is tested apart."""
    generator, asked = np.random.default_rng(0), []

    def one(self, *piece):
        asked.append(piece)
        shape = (3, 2 + len(learning.TUNING_SEEDS), self.rounds)
        curves = {
            name: generator.uniform(0.5, 1, shape).tolist() for name in ("accuracy", "loss", "norm")
        }
        start = {"exponent": [0.1, 0.2], "signal_to_noise": [1.0, 2.0]}
        cut = {capacity: {"head": 1.0, "input": 0.0} for capacity in pfn_chaos.CAPACITIES}
        named = {"method": piece[0], "arm": piece[-1]}
        return curves | {"start": start, "cut": cut} | named | record

    monkeypatch.setattr(module, "_record", one)
    options = ["--seeds", "2", "--rounds", "3", *outputs(tmp_path)]
    assert main([command, *options]) == 0
    number = len(asked)
    first = (tmp_path / "a.json").read_text()
    assert len(json.loads(first)["arms"]) == number
    assert (tmp_path / "a.png").stat().st_size > 10_000
    assert main([command, *options]) == 0
    assert len(asked) == number
    assert (tmp_path / "a.json").read_text() == first
    assert "| kernel |" in capsys.readouterr().out
    assert main([command, *options[:1], "3", *options[2:]]) == 2


@pytest.mark.slow
def test_flossing_tames_the_exponent():
    task = TASK._replace(horizon=20, gain=3.0)

    @jax.jit
    @jax.vmap
    def exponents(seed):
        key = jax.random.key(seed)
        params = init(task, key)
        flossed = long_memory.floss(task, params, key, 100, 1e-2)
        return [long_memory.leading_exponent(task, tree, key) for tree in (params, flossed)]

    before, after = exponents(jnp.arange(4))
    assert np.abs(after).mean() < np.abs(before).mean()


@pytest.mark.slow
def test_training_with_pfn_on_the_gradient_of_the_kernel(monkeypatch):
    monkeypatch.setattr(learning, "TUNING_SEEDS", ())
    monkeypatch.setattr(learning, "NUM_UNITS", 8)
    found = pfn_chaos.PFNChaosExperiment(seeds=2, horizon=6, rounds=3)._record("kernel", "pfn")
    assert np.shape(found["accuracy"]) == (3, 2, 3)
    assert set(found["cut"]) == set(pfn_chaos.CAPACITIES)
    assert all(0 <= share <= 1 for own in found["cut"].values() for share in own.values())
