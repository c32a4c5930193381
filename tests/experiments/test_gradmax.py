"""GradMax's criterion against explicit new units, and what a network costs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.growth import costs
from experiments.growth.gradmax import candidate_scores, cross_entropy, gradmax_scores
from experiments.mlp import init, logits
from pfn_optax.growth import grow, pad
from pfn_optax.precision import double_precision
from pfn_optax.units import unit_spec

pytestmark = pytest.mark.usefixtures("unoptimized")

SIZES = (6, 5, 4, 7, 3)
KEY = jax.random.key(0)
BATCH = jax.random.normal(KEY, (32, 6)), jax.random.randint(KEY, (32,), 0, 3)


def half_mean_square(outputs, labels):
    return jnp.mean(jnp.square(outputs - labels[:, None])) / 2


@pytest.fixture(scope="module")
def params():
    return init(jax.random.key(1), SIZES)


@pytest.fixture(scope="module")
def spec(params):
    return unit_spec(logits, params, BATCH[0])


@functools.cache
def scores(num_units, loss):
    return jax.jit(lambda params: gradmax_scores(params, BATCH, num_units, loss=loss))


@pytest.mark.parametrize("loss", [cross_entropy, half_mean_square])
def test_it_is_what_a_bypass_measures(params, loss):
    """The gradient with respect to a bypass by central differences of the loss, in float64."""
    found = scores(2, loss)(params)
    with double_precision():
        exact = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
        for number, name in enumerate(list(params)[:-1]):
            bypass = np.zeros((SIZES[number], SIZES[number + 2]))
            gradient = np.zeros_like(bypass)
            for place in np.ndindex(bypass.shape):
                ends = []
                for step in (1e-6, -1e-6):
                    moved = bypass.copy()
                    moved[place] = step
                    ends.append(float(loss(_with_bypass(exact, number, moved), BATCH[1])))
                gradient[place] = (ends[0] - ends[1]) / 2e-6
            singular = np.linalg.svd(gradient, compute_uv=False)
            np.testing.assert_allclose(found[name], np.sum(singular[:2] ** 2), rtol=1e-4)


def _with_bypass(params, number, bypass):
    inputs, passed = np.asarray(BATCH[0], np.float64), 0.0
    for own, layer in enumerate(params.values()):
        outputs = inputs @ layer["kernel"] + layer["bias"] + passed
        passed = inputs @ bypass if own == number else 0.0
        inputs = np.maximum(outputs, 0)
    return jnp.asarray(outputs)


def test_no_outgoing_weights_of_new_linear_units_get_a_larger_gradient(params):
    """New linear units with orthonormal outgoing weights: the best reach the score."""
    name, reader = "Dense_1", "Dense_2"
    inputs = jax.nn.relu(BATCH[0] @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"])

    def loss(incoming, outgoing):
        hidden = jax.nn.relu(inputs @ params[name]["kernel"] + params[name]["bias"])
        layer, head = params[reader], params["Dense_3"]
        hidden = hidden @ layer["kernel"] + layer["bias"] + inputs @ incoming @ outgoing
        outputs = jax.nn.relu(hidden) @ head["kernel"] + head["bias"]
        return cross_entropy(outputs, BATCH[1])

    slope = jax.jit(jax.grad(loss))
    score = float(scores(2, cross_entropy)(params)[name])
    bypass = np.asarray(slope(jnp.zeros((5, 7)), jnp.eye(7)))
    best = np.linalg.svd(bypass)[2][:2]
    reached = jnp.square(slope(jnp.zeros((5, 2)), best)).sum()
    np.testing.assert_allclose(reached, score, rtol=1e-4)
    draw = np.random.default_rng(0)
    for _ in range(20):
        outgoing = np.linalg.qr(draw.normal(size=(7, 2)))[0].T
        assert jnp.square(slope(jnp.zeros((5, 2)), outgoing)).sum() <= score * (1 + 1e-5)


def test_padding_and_fresh_units_change_no_score(params, spec):
    full = {group.name: 9 for group in spec.groups}
    padded = pad(params, spec, full)
    found = scores(2, cross_entropy)(params)
    more = scores(3, cross_entropy)(params)
    inside = scores(2, cross_entropy)(padded.params)
    grown = grow(params, spec, "Dense_1", 3, how="fresh", key=KEY)
    wide = scores(2, cross_entropy)(grown.params)
    for name in ("Dense_0", "Dense_1", "Dense_2"):
        assert more[name] >= found[name] > 0
        np.testing.assert_allclose(inside[name], found[name], rtol=1e-4)
    # What the new units read and are read by has other gradients now; for the group itself not.
    np.testing.assert_allclose(wide["Dense_1"], found["Dense_1"], rtol=1e-4)


def test_candidates_are_scored_as_the_fresh_units_that_they_stand_for(params, spec):
    """One candidate per group, put into the network: the gradient of its outgoing weights."""
    key = jax.random.key(3)
    found = jax.jit(lambda params: candidate_scores(params, BATCH, 1, key, num_candidates=1))(
        params
    )
    slope = jax.jit(jax.grad(lambda params: cross_entropy(logits(params, BATCH[0]), BATCH[1])))
    for number, name in enumerate(list(params)[:-1]):
        kernel = params[name]["kernel"]
        drawn = jax.random.normal(jax.random.fold_in(key, number), (kernel.shape[0], 1))
        norm = jnp.linalg.norm(kernel) / kernel.shape[1] ** 0.5
        grown = grow(params, spec, name, 1, how="fresh", key=KEY).params
        unit = drawn[:, 0] / jnp.linalg.norm(drawn) * norm
        layer = grown[name]
        grown[name] = {
            "kernel": layer["kernel"].at[:, -1].set(unit),
            "bias": layer["bias"].at[-1].set(0),
        }
        own = slope(grown)[f"Dense_{number + 1}"]["kernel"][-1]
        np.testing.assert_allclose(found[name], jnp.square(own).sum(), rtol=1e-4)


def test_costs_are_counted_on_the_parameters(params):
    assert costs.num_parameters(SIZES) == sum(leaf.size for leaf in jax.tree.leaves(params))
    for layer in (1, 2, 3):
        wider = [size + (number == layer) for number, size in enumerate(SIZES)]
        added = costs.num_parameters(wider) - costs.num_parameters(SIZES)
        assert added == costs.unit_cost(SIZES, layer)
        budget = costs.num_parameters(SIZES) + 3 * added
        assert costs.num_affordable(SIZES, layer, budget) == 3
        assert costs.num_affordable(SIZES, layer, budget - 1) == 2
        assert costs.num_affordable(SIZES, layer, 0) == 0
    weights = sum(layer["kernel"].size for layer in params.values())
    assert costs.training_flops([(2, SIZES), (3, SIZES)], 7) == 5 * 7 * 6 * weights
