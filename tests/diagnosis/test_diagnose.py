"""The one call: what it accepts, what it refuses, what it skips, and in which order it tells."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import pfn_optax
from pfn_optax.diagnosis import Cause, Finding, Severity, diagnose
from pfn_optax.diagnosis.budget import Budget, DoesNotApply, Skip
from pfn_optax.diagnosis.causes import explained
from pfn_optax.diagnosis.diagnose import examine
from pfn_optax.diagnosis.finding import ranked
from pfn_optax.diagnosis.signal import measure_signal
from tests.diagnosis.cases import DEPTH, scaled, shifted


def quadratic(params, batch):
    return jnp.sum((params["w"] - batch) ** 2)


def test_it_is_exported_and_imported_only_when_asked_for():
    assert pfn_optax.diagnose is diagnose
    with pytest.raises(AttributeError, match="no attribute 'diagnosis_of'"):
        pfn_optax.diagnosis_of  # noqa: B018


def test_a_network_is_profiled_layer_by_layer(relu_net):
    found = examine(relu_net.case())
    assert [layer.name for layer in found.layers] == ["l0", "l1", "l2", "l3", "out"]
    first = found.layers[0]
    assert (first.num_params, first.width) == (16 * 17, 16)
    loss, gradients = jax.jit(jax.value_and_grad(relu_net.loss))(relu_net.params, relu_net.batch)
    assert found.measures["loss"] == pytest.approx(float(loss), rel=1e-5)
    for norm, tree in ((first.parameter_norm, relu_net.params), (first.gradient_norm, gradients)):
        leaves = [np.asarray(leaf).ravel() for leaf in jax.tree.leaves(tree["l0"])]
        assert norm == pytest.approx(np.linalg.norm(np.concatenate(leaves)), rel=1e-4)
    assert found.num_params == DEPTH * 16 * 17 + 16 * 3 + 3
    assert found.seconds > 0


def test_the_profile_has_the_first_update_the_flow_and_the_predictions(linear_net):
    def model(params, batch):
        h = batch["x"]
        for n in range(DEPTH):
            h = h @ params[f"l{n}"]["w"] + params[f"l{n}"]["b"]
        return h @ params["out"]["w"] + params["out"]["b"]

    params, batch = linear_net.params, linear_net.batch
    waist = scaled(params, "l2", 0.0)
    waist["l2"]["w"] = waist["l2"]["w"].at[:, 0].set(params["l2"]["w"][:, 0])  # one unit is left
    found = diagnose(linear_net.loss, waist, batch, model=model, optimizer=optax.sgd(0.25))
    gradients = jax.grad(linear_net.loss)(waist, batch)
    by_name = {layer.name: layer for layer in found.layers}
    for name, layer in by_name.items():
        ratio = 0.25 * optax.tree.norm(gradients[name]) / optax.tree.norm(waist[name])
        assert layer.update_ratio == pytest.approx(float(ratio), rel=1e-4)
        assert layer.is_in_cut == (name == "l2")
    assert [by_name[name].capacity for name in ("l1", "l2", "out")] == [16, 1, 3]
    predictions = model(waist, batch)
    rms = float(jnp.sqrt(jnp.mean(predictions**2)))
    assert found.measures["prediction_rms"] == pytest.approx(rms, rel=1e-4)
    deviation = jnp.sqrt(jnp.mean((predictions - predictions.mean(0)) ** 2))
    assert found.measures["prediction_varying"] == pytest.approx(float(deviation) / rms, rel=1e-4)


def test_root_causes_come_before_their_symptoms(relu_net):
    found = examine(relu_net.case(shifted(relu_net.params, "l1", -1e3)))
    assert found.findings[0].cause is Cause.DEAD_UNITS
    assert found.findings[0].follows_from is None
    assert not found.is_healthy
    symptoms = [one for one in found.findings if one.cause is Cause.NO_GRADIENT]
    assert symptoms[0].follows_from is Cause.DEAD_UNITS


def test_notes_explain_nothing_and_nan_explains_all():
    def finding(cause, severity=Severity.WARNING):
        return Finding(cause, severity, "", "")

    note = finding(Cause.DEAD_UNITS, Severity.NOTE)
    assert explained([note, finding(Cause.NO_GRADIENT)])[1].follows_from is None
    worse = explained([finding(Cause.NONFINITE), finding(Cause.SATURATION)])
    assert worse[0].follows_from is None
    assert worse[1].follows_from is Cause.NONFINITE


def test_a_loss_of_nan_is_diagnosed():
    found = diagnose(lambda p, b: quadratic(p, b) * jnp.nan, {"w": jnp.ones(3)}, jnp.ones(3))
    assert found.findings[0].cause is Cause.NONFINITE
    assert found.findings[0].severity is Severity.CRITICAL


def test_without_recognised_layers_the_rest_is_looked_at():
    found = diagnose(quadratic, {"w": jnp.zeros(3), "unused": jnp.ones((2, 2))}, jnp.ones(3))
    assert [one.cause for one in found.findings] == [Cause.NO_GRADIENT]
    skipped = {check.name: check.skipped for check in found.skipped}
    assert "no layer is applied to data" in skipped["dead_units"]
    assert "nonfinite" not in skipped
    assert {layer.name for layer in found.layers} == {"unused"} or len(found.layers) == 2


def test_integer_inputs_and_integer_parameters():
    params = {"embedding": jax.random.normal(jax.random.key(0), (7, 4)), "step": jnp.int32(3)}
    params["out"] = {"w": jax.random.normal(jax.random.key(1), (4, 2))}

    def loss(params, batch):
        logits = params["embedding"][batch["tokens"]] @ params["out"]["w"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"]).mean()

    batch = {"tokens": jnp.arange(6), "labels": jnp.arange(6) % 2}
    found = diagnose(loss, params, batch)
    assert found.is_healthy
    assert [check.name for check in found.inapplicable] == ["chaos"]
    assert "chaos: does not apply: the data is of integers" in str(found)
    assert [layer.name for layer in found.layers] == ["embedding", "out"]
    assert found.layers[0].gain is None


def test_an_nnx_module_is_taken_apart():
    model = nnx.Sequential(
        nnx.Linear(4, 8, rngs=nnx.Rngs(0)), nnx.relu, nnx.Linear(8, 2, rngs=nnx.Rngs(1))
    )
    x = jax.random.normal(jax.random.key(0), (12, 4))
    found = diagnose(lambda model, x: (jnp.mean(model(x) ** 2), "aux"), model, x, has_aux=True)
    assert [layer.name for layer in found.layers] == ["layers/0", "layers/2"]
    assert found.is_healthy


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"params": {}}, ValueError, "no parameters to train"),
        ({"params": {"n": jnp.arange(3)}}, ValueError, "no parameters to train"),
        ({"params": {"w": "text"}}, TypeError, "params/w is a str"),
        ({"batch": {"x": "text"}}, TypeError, "batch/x is a str"),
        ({"loss": lambda p, b: p["w"]}, ValueError, "must return one real number"),
        ({"loss": lambda p, b: (p["w"].sum(), 1)}, ValueError, "has_aux=True"),
        ({"has_aux": True}, ValueError, "leave has_aux out"),
        ({"loss": lambda p, b: jnp.int32(1)}, ValueError, "must return one real number"),
        ({"optimizer": 0.1}, TypeError, "must be an optax transformation"),
        ({"max_seconds": 0}, ValueError, "max_seconds must be positive"),
        ({"max_bytes": -1}, ValueError, "max_bytes must be positive"),
    ],
)
def test_bad_arguments_are_refused(change, error, match):
    given = {"loss": quadratic, "params": {"w": jnp.ones(3)}, "batch": jnp.ones(3), **change}
    with pytest.raises(error, match=match):
        diagnose(given.pop("loss"), given.pop("params"), given.pop("batch"), **given)


def test_bytes_and_seconds_are_respected_and_said():
    found = diagnose(quadratic, {"w": jnp.ones(3)}, jnp.ones(3), max_bytes=8)
    assert {"nonfinite", "gradients"} <= {check.name for check in found.skipped}
    assert "raise max_bytes" in found.skipped[0].skipped
    found = diagnose(quadratic, {"w": jnp.ones(3)}, jnp.ones(3), max_seconds=1e-9)
    assert "raise max_seconds" in found.skipped[0].skipped
    assert not found.findings


@pytest.mark.parametrize("kind", [Skip, DoesNotApply])
def test_a_measurement_is_made_once_also_when_it_is_skipped(relu_net, kind):
    case = relu_net.case()
    assert case.once(measure_signal) is case.once(measure_signal)
    calls = []

    def refuse(case):
        calls.append(case)
        raise kind("too long")

    for _ in range(2):
        with pytest.raises(Skip, match="too long") as caught:
            case.once(refuse)
        assert caught.type is kind
    assert len(calls) == 1


def test_a_budget_knows_what_is_left():
    budget = Budget(max_seconds=100.0, max_bytes=10**9)
    budget.require(10.0, "a little")
    with pytest.raises(Skip, match="a lot would take about 1000 s"):
        budget.require(1000.0, "a lot")
    ones = jnp.ones(2)
    assert budget.compile(lambda x: x + 1, ones, what="a sum")(ones).tolist() == [2, 2]
    assert budget.compile_seconds > 0
    shape = jax.ShapeDtypeStruct((2**15, 2**15), jnp.float32)
    with pytest.raises(Skip, match=r"would take .* GB, and 1 GB are allowed"):
        budget.compile(lambda x: x * 2, shape, what="something large")


def test_notes_come_last_and_symptoms_after_what_explains_them():
    def finding(cause, severity, follows_from=None, excess=1.0):
        return Finding(cause, severity, "", "", excess=excess, follows_from=follows_from)

    note = finding(Cause.NONFINITE, Severity.NOTE)
    symptom = finding(Cause.RANK_COLLAPSE, Severity.CRITICAL, Cause.INIT_TOO_SMALL)
    small = finding(Cause.INIT_TOO_SMALL, Severity.WARNING)
    smaller = finding(Cause.INIT_TOO_SMALL, Severity.WARNING, excess=2.0)
    waist = finding(Cause.BOTTLENECK, Severity.WARNING)
    expected = (smaller, small, waist, symptom, note)
    assert ranked([note, symptom, waist, small, smaller]) == expected


def test_a_module_that_counts_and_draws_as_it_runs():
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.dense, self.norm = nnx.Linear(4, 8, rngs=rngs), nnx.BatchNorm(8, rngs=rngs)
            self.dropout, self.head = nnx.Dropout(0.1, rngs=rngs), nnx.Linear(8, 2, rngs=rngs)

        def __call__(self, x):
            return self.head(self.dropout(nnx.relu(self.norm(self.dense(x)))))

    model = Model(nnx.Rngs(0))
    before = jax.tree.map(jnp.copy, nnx.state(model, nnx.BatchStat))
    x = 1 + jax.random.normal(jax.random.key(0), (32, 4))
    found = diagnose(lambda model, x: jnp.mean((model(x) - x[:, :2]) ** 2), model, x)
    assert found.is_healthy, str(found)
    assert [layer.name for layer in found.layers] == ["dense", "head"]
    jax.tree.map(np.testing.assert_array_equal, before, nnx.state(model, nnx.BatchStat))
