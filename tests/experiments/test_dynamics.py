"""The commands on exponents and long gradients, at a small size, resumed; and their references."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate

from experiments.__main__ import main
from experiments.dynamics import (
    ExponentMapExperiment,
    GradientHorizonExperiment,
    RNNExponentsExperiment,
    exponents,
    horizon,
)
from experiments.dynamics.classifiers import features, init, logits, margins
from experiments.dynamics.maps import _plane, boundary_distance, summary
from experiments.dynamics.mean_field import leading_exponents
from experiments.dynamics.systems import System, true_derivative
from experiments.errors import UsageError
from pfn_optax.precision import double_precision

pytestmark = pytest.mark.usefixtures("unoptimized")


def test_mean_field_by_adaptive_quadrature():
    def gaussian(function):
        density = np.sqrt(2 * np.pi)
        return integrate.quad(lambda z: function(z) * np.exp(-z * z / 2) / density, -12, 12)[0]

    gain, drive, variance = 4.0, 0.5, 10.0
    for _ in range(60):  # the fixed point, by iteration where it attracts
        root = variance**0.5
        variance = gain**2 * gaussian(lambda z, s=root: np.tanh(s * z) ** 2) + drive**2
    slope = gaussian(lambda z: np.cosh(variance**0.5 * z) ** -4)
    [found] = leading_exponents(np.array([gain]), drive)
    assert found == pytest.approx(np.log(gain**2 * slope) / 2, abs=1e-6)


def test_mean_field_around_the_transition():
    below, *above = leading_exponents(np.array([0.8, 1.01, 1.02]))
    assert below == pytest.approx(np.log(0.8), abs=1e-9)
    assert above == pytest.approx(2 / 3 * np.array([1e-2, 2e-2]) ** 2, rel=0.1)


def test_a_network_at_rest_has_the_eigenvalues_for_exponents():
    """Below the transition the state is 0, where the step is its weights."""
    size, gain, seed = 8, 0.5, 0
    with double_precision():
        found, _, _ = exponents._measure(size, "tanh", 1, 400, 200)(
            jnp.asarray(gain, float), jnp.asarray(0.0)
        )
        key = jax.random.split(jax.random.key(seed), 3)[0]
        weights = np.asarray(gain / size**0.5 * jax.random.normal(key, (size, size)))
    expected = np.sort(np.log(np.abs(np.linalg.eigvals(weights))))[::-1]
    np.testing.assert_allclose(found[0], expected, atol=0.03)


def test_exponents_of_networks(tmp_path, capsys):
    options = ["--networks", "tanh", "GRU", "--size", "6", "--gains", "0.5", "3", "--seeds", "2"]
    options += ["--steps", "100", "--transient", "20", "--run-dir", str(tmp_path / "run")]
    options += ["--json", str(tmp_path / "out.json"), "--plot", str(tmp_path / "out.png")]
    assert main(["rnn-exponents", *options]) == 0
    first = (tmp_path / "out.json").read_text()
    rows = json.loads(first)["rows"]
    assert [row["network"] for row in rows] == ["tanh", "tanh", "GRU", "GRU"]
    assert all(row["mean_leading"]["mean"] < 0 for row in rows[::2])
    assert len(rows[0]["mean_spectrum"]) == 6
    assert (tmp_path / "out.png").stat().st_size > 10_000
    file = tmp_path / "run" / "exponents.jsonl"
    file.write_bytes(file.read_bytes()[:-20])  # a crash while the last line was written
    assert main(["rnn-exponents", *options]) == 0
    assert (tmp_path / "out.json").read_text() == first
    assert "GRU, gain 3.0: leading exponent" in capsys.readouterr().out
    assert main(["rnn-exponents", "--seeds", "3", "--run-dir", str(tmp_path / "run")]) == 2


def contraction():
    """x' = x / 2 + g, whose mean is 2 g."""
    return System(
        step=lambda gain, x: x / 2 + gain,
        objective=lambda _, x: x.sum(),
        params=jnp.float32(1),
        direction=jnp.float32(1),
        start=jnp.ones(1),
        noise=0.1,
        time_step=1.0,
        num_transient=40,
        horizons=(20, 40),
        difference=0.5,
        methods={"backprop": {}},
    )


def test_gradients_against_the_horizon(tmp_path, monkeypatch, capsys):
    def noisy():
        methods = {"kernel": {"noise": 0.1, "window": 10, "num_replicas": 4}}
        return contraction()._replace(horizons=(40,), methods=methods)

    monkeypatch.setattr(horizon, "SYSTEMS", {"Lorenz": contraction, "tanh network": noisy})
    options = ["--seeds", "2", "--members", "4", "--member-steps", "50"]
    options += ["--run-dir", str(tmp_path / "run"), "--json", str(tmp_path / "out.json")]
    options += ["--plot", str(tmp_path / "out.png")]
    assert main(["gradient-horizon", *options]) == 0
    first = (tmp_path / "out.json").read_text()
    found = json.loads(first)["systems"]["Lorenz"]
    assert found["exponents"] == [pytest.approx(np.log(0.5))]
    assert found["truth"]["mean"] == pytest.approx(2, abs=1e-3)
    assert found["truth_with_noise"]["mean"] == pytest.approx(2, abs=1e-3)  # the same noise
    backprop = [row for row in found["rows"] if row["method"] == "backprop"]
    assert [row["steps"] for row in backprop] == [20, 40]
    assert backprop[1]["median_error"] < 0.1
    assert "backprop, 40 steps: median norm" in capsys.readouterr().out
    assert main(["gradient-horizon", *options]) == 0
    assert (tmp_path / "out.json").read_text() == first
    assert (tmp_path / "out.png").stat().st_size > 10_000


def test_the_truth_of_a_contraction():
    slope, mean = true_derivative(contraction(), noise=0.0, num_members=3, num_steps=20)
    assert slope.mean == pytest.approx(2, abs=1e-4)
    assert mean == pytest.approx(2, abs=1e-4)


def test_classifiers_and_margins():
    params = init(jax.random.key(0), 3, 5, 2, 4)
    x = jnp.ones((7, 3))
    assert features(params, x).shape == (7, 5)
    assert logits(params, x[0]).shape == (4,)
    np.testing.assert_allclose(margins(jnp.array([[1.0, 4.0, 3.5], [2.0, 2.0, 0.0]])), [0.5, 0.0])


def test_a_plane_holds_its_corners():
    draw = np.random.default_rng(0)
    images, labels = draw.random((6, 9)), np.array([4, 4, 2, 4, 7, 9])
    axis, points, corners = _plane(images, labels, 5)
    assert points.shape == (5, 5, 9)
    basis = np.stack([points[2, 3] - points[2, 2], points[3, 2] - points[2, 2]]) / np.diff(axis)[0]
    np.testing.assert_allclose(points[2, 2] + corners @ basis, images[[0, 2, 4]], atol=1e-12)


def test_distances_to_a_boundary():
    classes = np.array([[0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 2, 2]])
    distance = boundary_distance(classes)
    assert distance[0].tolist() == [pytest.approx(8**0.5), 2, 1, 1]
    assert distance[2, 1] == 1
    assert np.isinf(boundary_distance(np.zeros((2, 2), int))).all()


def test_a_ridge_and_its_correlation_are_found():
    """Exponents that are large where classes meet, and fall with the margin."""
    classes = np.repeat([[0] * 5 + [1] * 5], 10, axis=0)
    ridge = np.where(boundary_distance(classes) <= 2, 0.7, 0.2)
    found = {
        "axis": np.arange(10),
        "map_classes": np.stack(2 * [classes.ravel()]),
        "map_exponents": np.stack(2 * [ridge.ravel()]),
        "test_labels": np.array([0, 0, 1, 1]),
        "test_classes": np.array(2 * [[0, 1, 1, 1]]),
        "test_margins": np.array(2 * [[3.0, 0.1, 1.0, 2.0]]),
        "test_exponents": np.array(2 * [[-1.0, 0.5, 0.2, 0.1]]),
    }
    row = summary(found)
    assert row["ridge"]["mean"] == pytest.approx(0.5)
    assert row["correlation_with_margin"]["mean"] == pytest.approx(-1)
    assert row["accuracy"]["mean"] == 0.75
    assert row["wrong"]["mean"] == row["small_margin"]["mean"] == 0.5


def test_maps_of_exponents(tmp_path, capsys):
    options = ["--plane-widths", "3", "--image-widths", "8", "--images", "digits"]
    options += ["--depth", "1", "--seeds", "2", "--steps", "60", "--resolution", "7"]
    options += ["--tested", "40", "--run-dir", str(tmp_path / "run")]
    options += ["--json", str(tmp_path / "out.json"), "--plot", str(tmp_path / "out.png")]
    assert main(["exponent-map", *options]) == 0
    first = (tmp_path / "out.json").read_text()
    moons, digits = json.loads(first)["rows"]
    assert moons["accuracy"]["mean"] > 0.6
    assert np.isfinite(digits["right"]["mean"])
    times = {file: file.stat().st_mtime_ns for file in (tmp_path / "run").glob("*.npz")}
    assert len(times) == 2
    assert main(["exponent-map", *options]) == 0
    assert times == {file: file.stat().st_mtime_ns for file in (tmp_path / "run").glob("*.npz")}
    assert (tmp_path / "out.json").read_text() == first
    assert (tmp_path / "out.png").stat().st_size > 10_000
    assert "correlation with the margin" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RNNExponentsExperiment(seeds=1), "seeds must be at least 2; got 1"),
        (lambda: RNNExponentsExperiment(transient=-1), "transient must not be negative; got -1"),
        (lambda: RNNExponentsExperiment(gains=(2, 1)), r"increasing; got \(2, 1\)"),
        (lambda: GradientHorizonExperiment(shortest=0), "shortest must be at least 1; got 0"),
        (lambda: ExponentMapExperiment(depth=0), "depth must be at least 1; got 0"),
        (lambda: ExponentMapExperiment(resolution=2), "resolution of 3; got 5 and 2"),
        (lambda: ExponentMapExperiment(image_widths=()), "a width for points and one for images"),
    ],
)
def test_bad_options(make, message):
    with pytest.raises(UsageError, match=message):
        make()
