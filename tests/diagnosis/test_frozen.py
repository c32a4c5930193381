"""Parameters that the optimizer leaves as they are."""

import jax
import jax.numpy as jnp
import optax
import pytest

from pfn_optax.diagnosis import Cause, Severity
from pfn_optax.diagnosis.checks.frozen import check_frozen
from tests.diagnosis.quadratics import case_of

X = jax.random.normal(jax.random.key(0), (8, 3))
PARAMS = {
    "body": {"kernel": jnp.ones((3, 4)) / 2, "bias": jnp.zeros(4)},
    "head": {"kernel": jnp.ones((4, 1))},
}


def loss(params, x):
    h = jnp.tanh(x @ params["body"]["kernel"] + params["body"]["bias"])
    return jnp.mean((h @ params["head"]["kernel"] - 1) ** 2)


def is_body(params):
    return {
        name: jax.tree.map(lambda _, is_its=name == "body": is_its, part)
        for name, part in params.items()
    }


def labels(params):
    return {name: "off" if name == "body" else "on" for name in params}


def found_with(optimizer):
    return list(check_frozen(case_of(loss, PARAMS, X, optimizer)))


FREEZING = {
    "masked": optax.chain(optax.adam(0.01), optax.masked(optax.set_to_zero(), is_body)),
    "labels": optax.multi_transform({"on": optax.sgd(0.1), "off": optax.set_to_zero()}, labels),
    "rate of 0": optax.multi_transform({"on": optax.sgd(0.1), "off": optax.adam(0.0)}, labels),
}


@pytest.mark.parametrize("name", FREEZING)
def test_what_is_never_updated_is_found(name):
    [found] = found_with(FREEZING[name])
    assert (found.cause, found.severity) == (Cause.FROZEN, Severity.CRITICAL)
    assert found.layers == ("body",)
    assert found.evidence[0].value == 2


def test_of_vectors_alone_it_is_a_warning():
    def is_bias(params):
        return jax.tree.map(lambda leaf: leaf.ndim == 1, params)

    [found] = found_with(optax.chain(optax.sgd(0.1), optax.masked(optax.set_to_zero(), is_bias)))
    assert found.severity is Severity.WARNING


def test_an_optimizer_that_does_nothing_at_all():
    [found] = found_with(optax.set_to_zero())
    assert found.severity is Severity.CRITICAL
    assert "no parameter" in found.summary


def test_a_part_that_a_schedule_starts_later_is_a_note():
    later = optax.sgd(optax.join_schedules([lambda _: 0.0, lambda _: 0.1], [50]))
    optimizer = optax.multi_transform({"on": optax.sgd(0.1), "off": later}, labels)
    [found] = found_with(optimizer)
    assert (found.severity, found.layers) == (Severity.NOTE, ("body",))


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.sgd(0.1),
        optax.adamw(optax.linear_schedule(0.0, 0.01, 10)),
        optax.sgd(optax.join_schedules([lambda _: 0.0, lambda _: 0.1], [500])),
        optax.MultiSteps(optax.adam(0.01), 4).gradient_transformation(),
    ],
    ids=["sgd", "warm-up", "a late start", "multi-steps"],
)
def test_what_is_updated_sooner_or_later_is_not(optimizer):
    assert not found_with(optimizer)
