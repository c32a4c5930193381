"""The training script: what its step computes, and that a run that was stopped is the same run."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import batches, epochs, interrupts
from experiments.__main__ import main
from experiments.cifar.augmentation import augmented
from experiments.cifar.growing import Growing
from experiments.cifar.networks import builder
from experiments.cifar.optimizer import learning_rates, sgd
from experiments.cifar.trainer import Trainer
from experiments.cifar.watching import PropagationReader
from experiments.data import Dataset, load
from experiments.diagnoses import DiagnosisReader
from experiments.training import Network
from pfn_optax import pfn
from pfn_optax.propagation import propagation_monitor

pytestmark = pytest.mark.usefixtures("unoptimized")

ROOT = Path(__file__).parents[2]
NUM_STEPS = 12
BATCH_SIZE = 32
DECAYS = {"momentum": 0.9, "weight_decay": 5e-4}


@pytest.fixture(scope="module")
def digits():
    """Few images, so that an epoch is a few steps."""
    full, num_images = load("digits"), NUM_STEPS * BATCH_SIZE
    train = full.train_images[:num_images], full.train_labels[:num_images]
    return Dataset("digits", *train, full.test_images[:64], full.test_labels[:64], 10)


def small_trainer(dataset, *, width=2, optimizer=None, **options):
    network = Network(builder("small", dataset, width=width), dataset, label_smoothing=0.1)
    plain = sgd(optax.constant_schedule(0.1), **DECAYS)
    return Trainer(network, optimizer or plain, augment=True, ema_decay=0.9, **options)


@pytest.fixture(scope="module")
def trainer(digits):
    return small_trainer(digits, keep_epoch_start=True)


def first_batch(dataset):
    return dataset.train_images[:BATCH_SIZE], dataset.train_labels[:BATCH_SIZE]


def test_augmentation_is_that_of_the_host():
    images = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 3), np.uint8)
    key = jax.random.key(3)
    crop_key, mirror_key = jax.random.split(key)
    corners = np.asarray(jax.random.randint(crop_key, (64, 2), 0, 5))
    mirrored = np.asarray(jax.random.bernoulli(mirror_key, shape=(64, 1, 1, 1))).ravel()
    expected = batches.augmented(images, shifts=corners, mirrored=mirrored, padding=2)
    np.testing.assert_array_equal(augmented(key, jnp.asarray(images), padding=2), expected)
    assert set(corners.ravel()) == set(range(5))


def test_learning_rate_without_warmup_begins_at_its_largest():
    schedule = learning_rates(0.4, num_steps=10, warmup=0.0)
    np.testing.assert_allclose([schedule(step) for step in (0, 5, 10)], [0.4, 0.2, 0.0], atol=1e-7)


def test_weights_decay_and_norms_do_not():
    params = {"kernel": jnp.ones((2, 2)), "scale": jnp.ones(2)}
    optimizer = sgd(optax.constant_schedule(1.0), momentum=0.0, weight_decay=0.25)
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    np.testing.assert_array_equal(updates["kernel"], -0.25 * params["kernel"])
    np.testing.assert_array_equal(updates["scale"], zeros["scale"])


def test_averages_are_those_of_the_last_steps(trainer, digits):
    """Weights and running statistics, with a decay that grows from a tenth to its own."""
    state = trainer.init(0)
    average = jax.device_get((state.params, state.rest))
    for step in range(4):
        state = trainer.step(state, *first_batch(digits))
        now, decay = jax.device_get((state.params, state.rest)), min(0.9, (1 + step) / (10 + step))
        average = jax.tree.map(lambda old, new, d=decay: d * old + (1 - d) * new, average, now)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), state.average, average)
    assert int(state.step) == 4
    of_average = trainer.evaluate(state, digits.test_images, digits.test_labels)
    of_last = trainer.network.evaluate(
        state.params, state.rest, digits.test_images, digits.test_labels
    )
    assert of_average != of_last


def test_the_start_of_an_epoch_is_kept_in_host_memory(trainer, digits):
    """The step gives the buffers away; what is kept does not change."""
    state = trainer.init(1)
    expected = jax.tree.map(np.array, state.params)
    trainer.step(trainer.start_epoch(state), *first_batch(digits))
    jax.tree.map(np.testing.assert_array_equal, trainer.epoch_start.params, expected)
    assert {type(leaf) for leaf in jax.tree.leaves(trainer.epoch_start)} == {np.ndarray}


def test_label_smoothing_is_towards_the_uniform_distribution(digits):
    """Its loss is the mixture of both cross-entropies."""
    build = builder("small", digits, width=2)
    smooth, plain = (Network(build, digits, label_smoothing=share) for share in (0.3, 0.0))
    params, rest = plain.init(jax.random.key(0))
    images, labels = first_batch(digits)
    logits, _ = plain.apply(params, rest, images, training=True)
    uniform = -jax.nn.log_softmax(logits).mean()
    expected = 0.7 * plain.loss(params, rest, images, labels)[0] + 0.3 * uniform
    assert float(smooth.loss(params, rest, images, labels)[0]) == pytest.approx(float(expected))


def test_resnet18_in_bfloat16_is_a_program_of_an_accelerator():
    """No accelerator is needed to lower it; its parameters, averages and momentum are float32."""
    images = np.zeros((8, 32, 32, 3), np.uint8)
    cifar = Dataset("cifar10", images, np.zeros(8, np.int32), images, np.zeros(8, np.int32), 10)
    network = Network(builder("resnet18", cifar, width=64), cifar, dtype=jnp.bfloat16)
    schedule = learning_rates(0.4, num_steps=100, warmup=0.1)
    trainer = Trainer(network, sgd(schedule, **DECAYS), augment=True, ema_decay=0.99)
    state = jax.eval_shape(lambda: trainer.init(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(state.params)) == 11_173_962
    batch = jax.ShapeDtypeStruct((128, 32, 32, 3), np.uint8), jax.ShapeDtypeStruct((128,), np.int32)
    traced = trainer._jit_step.trace(state, *batch)
    after = traced.out_info
    dtypes = [leaf.dtype for leaf in jax.tree.leaves(after)]
    assert dtypes == [leaf.dtype for leaf in jax.tree.leaves(state)]
    assert {leaf.dtype for leaf in jax.tree.leaves((after.params, after.rest, after.average))} == {
        jnp.dtype("float32")
    }
    lines = traced.lower(lowering_platforms=("cuda",)).as_text().splitlines()
    convolutions = [line for line in lines if "stablehlo.convolution" in line]
    assert len(convolutions) == 20 + 20 + 19  # forward, of the weights, of what comes before
    assert all("bf16" in line and "f32" not in line for line in convolutions)


def run_of(trainer, dataset, folder, *, readers=(), growth=None):
    epochs.train(
        trainer,
        dataset,
        folder=folder,
        seed=0,
        config={"epochs": 2, "batch_size": BATCH_SIZE, "augment": False},
        readers=readers,
        checkpoint_seconds=1e9,
        description="test",
        growth=growth,
    )
    return (folder / "metrics.jsonl").read_bytes()


class CtrlC:
    """Presses it after a step."""

    def __init__(self, step):
        self.step = step

    def is_due(self, step):
        if step == self.step:
            signal.raise_signal(signal.SIGINT)
        return False


def watched(digits):
    """A network too narrow for ten digits, watched by everything, that grows."""
    every, flow = NUM_STEPS // 2, {"num_blocks": 1}
    chain = sgd(
        learning_rates(0.1, num_steps=2 * NUM_STEPS, warmup=0.1),
        **DECAYS,
        first=[pfn(every=every, capacity="effective_rank", beta=0.0, **flow)],
        last=[propagation_monitor(every=every, capacity=1)],
    )
    trainer = small_trainer(digits, optimizer=chain)
    growth = Growing(
        trainer, digits, budget=4.0, flow=flow | {"capacity": "effective_rank", "graph": None}
    )
    return trainer, growth, [DiagnosisReader(every, flow), PropagationReader(every)]


@pytest.mark.slow
def test_growing_run_that_is_stopped_is_the_undisturbed_one(digits, tmp_path, capsys):
    trainer, growth, readers = watched(digits)
    expected = run_of(trainer, digits, tmp_path / "one", readers=readers, growth=growth)
    records = [json.loads(line) for line in expected.splitlines()]
    before, after = (record for record in records if record["kind"] == "growth")
    assert (before["step"], after["step"]) == (0, NUM_STEPS)
    assert before["num_params"] < after["num_params"] <= 4 * before["num_params"]
    assert "grows from" in capsys.readouterr().err
    gradients = [record["gradient_norm"] for record in records if record["kind"] == "propagation"]
    assert len(gradients) == 4
    assert all(norm > 0 for record in gradients for norm in record.values())

    folder = tmp_path / "two"
    trainer, growth, readers = watched(digits)
    readers.append(CtrlC(NUM_STEPS + 5))
    with pytest.raises(interrupts.Interrupted, match="SIGINT"):
        run_of(trainer, digits, folder, readers=readers, growth=growth)
    trainer, growth, readers = watched(digits)  # as another process would
    assert run_of(trainer, digits, folder, readers=readers, growth=growth) == expected


@pytest.mark.slow
def test_two_devices_train_as_one_does():
    process = subprocess.run(
        [sys.executable, "-m", "tests.experiments.two_devices"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    difference, *collectives = process.stdout.split()
    assert float(difference) < 1e-5
    assert set(collectives) == {"all-reduce"}  # images stay where they are


OPTIONS = ["cifar", "--dataset", "digits", "--width", "2", "--batch-size", "256", "--epochs", "2"]


def test_a_run_is_reported_and_another_configuration_refused(tmp_path, capsys):
    command = [*OPTIONS, "--run-dir", str(tmp_path / "run")]
    watched = [*command, "--pfn", "--monitor", "--capacity", "norm", "--every", "5"]
    watched += ["--precision", "bfloat16"]
    assert main(watched) == 0
    captured = capsys.readouterr()
    assert "digits, small: test accuracy" in captured.out
    assert len(list((tmp_path / "run").glob("events.out.tfevents.*"))) == 1
    kinds = [
        json.loads(line)["kind"]
        for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    assert kinds == 2 * ["diagnosis", "propagation", "epoch"]
    assert main(watched) == 0
    assert capsys.readouterr().out == captured.out  # nothing is trained again
    assert main(command) == 2
    assert "pfn: True there, False asked for" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_that_fails_is_diagnosed(tmp_path, capsys):
    options = ["--learning-rate", "1e15", "--warmup", "0", "--diagnose"]
    assert main([*OPTIONS, *options, "--run-dir", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert "18 checks" in captured.out  # what they find is a matter of time on a busy machine
    assert "as a page:" in captured.out
    assert f"not finite in epoch 1. {tmp_path / 'before.html'} says what is wrong" in captured.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--epochs", "0"], "epochs must be at least 1; got 0"),
        (["--momentum", "1"], r"momentum must be in [0, 1); got 1.0"),
        (["--learning-rate", "nan"], "learning_rate must be positive and finite; got nan"),
        (["--weight-decay", "-1"], "weight_decay must be at least 0; got -1.0"),
        (["--grow", "--growth-budget", "1"], "growth_budget must be more than 1; got 1.0"),
        (["--grow", "--graph", "units"], "a graph of units has sizes"),
        (["--grow", "--num-processes", "2"], "--grow trains on one device"),
        (["--grow", "--devices", "2"], "--grow trains on one device"),
        (["--pfn", "--capacity", "size"], "capacity must be"),
        (["--pfn", "--beta", "-1"], "beta must be"),
        (["--batch-size", "5000"], "at most the 1437 training images of digits; got 5000"),
    ],
)
def test_bad_options_are_answered_in_a_sentence(options, message, tmp_path, capsys):
    arguments = ["cifar", "--dataset", "digits", *options, "--run-dir", str(tmp_path / "run")]
    try:
        status = main(arguments)
    except SystemExit as stop:  # what concerns one option alone, from the parser
        status = stop.code
    assert status == 2
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())
