import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pfn_optax.capacity import CAPACITIES, Statistics, capacity_rule, effective_rank, rank_within
from pfn_optax.partition import block_norms, partition
from tests.tolerance import rtol
from tests.trees import dense

pytestmark = pytest.mark.usefixtures("unoptimized")

PARAMS = dense(0, 6, 20, 20, 3)
LAYOUT = partition(PARAMS, block_size=6)
NORMS = jax.random.uniform(jax.random.key(1), (LAYOUT.num_blocks,))
KNOWN = Statistics(NORMS, LAYOUT.leaves(PARAMS), LAYOUT)


def by_layer(values):
    return [np.asarray(values)[layer.blocks] for layer in LAYOUT.layers]


def test_rank_is_definition_2():
    for norms, capacities in zip(
        by_layer(NORMS), by_layer(CAPACITIES["rank"].function(KNOWN, LAYOUT)), strict=True
    ):
        size = len(norms)
        ranks = scipy.stats.rankdata(norms, method="ordinal") - 1
        expected = 0.1 + 0.9 * ranks / (size - 1) if size > 1 else [1.0]
        np.testing.assert_allclose(capacities, expected, rtol=rtol())


@given(hnp.arrays(np.float32, 9, elements=st.floats(0, 1, width=32)))
def test_ranks_depend_on_order_alone(values):
    groups = np.array([0, 0, 0, 0, 1, 2, 2, 2, 2])
    ranks = np.asarray(rank_within(jnp.asarray(values), groups))
    np.testing.assert_array_equal(ranks, rank_within(jnp.asarray(values) * 4, groups))
    for group in range(3):
        own, size = ranks[groups == group], np.sum(groups == group)
        expected = np.linspace(0.1, 1, size) if size > 1 else [1.0]
        np.testing.assert_allclose(np.sort(own), expected, rtol=rtol())
        # The order is that of the values; ties stand in their given order.
        np.testing.assert_array_equal(
            np.argsort(own), np.argsort(values[groups == group], kind="stable")
        )


def test_global_rank_runs_over_the_network():
    capacities = CAPACITIES["global_rank"].function(KNOWN, LAYOUT)
    np.testing.assert_allclose(
        np.sort(capacities), np.linspace(0.1, 1, LAYOUT.num_blocks), rtol=rtol()
    )
    np.testing.assert_array_equal(np.argsort(capacities), np.argsort(NORMS))


def test_rules_that_are_formulas():
    sizes = block_norms(LAYOUT, PARAMS)
    for name, expected in {
        "norm": NORMS,
        "energy": NORMS**2,
        "relative": NORMS / sizes,
        "sensitivity": NORMS * sizes,
    }.items():
        capacities = CAPACITIES[name].function(KNOWN, LAYOUT)
        np.testing.assert_allclose(capacities, expected, rtol=rtol(), err_msg=name)


def test_relative_of_zero_parameters_is_finite_or_infinite_but_not_nan():
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    capacities = CAPACITIES["relative"].function(
        Statistics(NORMS, LAYOUT.leaves(zeros), LAYOUT), LAYOUT
    )
    assert not np.isnan(capacities).any()


@pytest.mark.parametrize(
    ("singular_values", "expected"),
    [
        ([3, 3, 3, 3, 3], 5),
        ([7, 0, 0, 0, 0], 1),
        ([1, 1, 0, 0, 0], 2),
        ([0, 0, 0, 0, 0], 0),
        ([2, 1, 0, 0, 0], 25 / 17),
    ],
)
def test_effective_rank_of_known_spectra(singular_values, expected):
    left, right = (
        np.linalg.qr(np.random.default_rng(seed).normal(size=(5, 5)))[0] for seed in (0, 1)
    )
    matrix = jnp.asarray(left @ np.diag(singular_values) @ right, jnp.float32)
    np.testing.assert_allclose(effective_rank(matrix), expected, rtol=1e-5, atol=1e-6)


@given(st.integers(0, 2**31), st.integers(1, 5))
def test_effective_rank_is_at_most_the_rank_and_subadditive_over_columns(seed, rank):
    generator = np.random.default_rng(seed)
    matrix = generator.normal(size=(7, rank)) @ generator.normal(size=(rank, 9))
    matrix = matrix * np.exp(generator.normal(size=9))
    whole = float(effective_rank(jnp.asarray(matrix, jnp.float32)))
    assert whole <= rank * (1 + 1e-4)
    parts = [matrix[:, :3], matrix[:, 3:4], matrix[:, 4:]]
    total = sum(float(effective_rank(jnp.asarray(part, jnp.float32))) for part in parts)
    assert whole <= total * (1 + 1e-4)


def test_jacobian_rank_of_a_layer_against_svd_however_it_is_cut():
    for options in ({"block_size": 6}, {"block_size": 1}, {"num_blocks": 2}):
        layout = partition(PARAMS, **options)

        @jax.jit
        def effective_ranks(params, layout=layout):
            norms = jnp.ones(layout.num_blocks)
            return Statistics(norms, layout.leaves(params), layout).effective_ranks

        found = np.asarray(effective_ranks(PARAMS))
        for layer, params in zip(layout.layers, PARAMS.values(), strict=True):
            squares = np.linalg.svd(np.asarray(params["kernel"]), compute_uv=False) ** 2
            expected = squares.sum() ** 2 / np.sum(squares**2)
            np.testing.assert_allclose(found[layer.blocks].sum(), expected, rtol=1e-4)


@pytest.mark.parametrize("shape", [(40, 20), (12, 20)], ids=["tall", "wide"])
def test_shares_are_in_proportion_to_the_blocks_energy(shape):
    kernel = jax.random.normal(jax.random.key(3), shape) * jnp.linspace(0.1, 3, 20)
    layout = partition([kernel], block_size=8)
    known = Statistics(jnp.ones(3), layout.leaves([kernel]), layout)
    energies = np.array(
        [np.sum(np.square(kernel[:, part])) for part in (slice(8), slice(8, 16), slice(16, 20))]
    )
    expected = energies / energies.sum() * float(effective_rank(kernel))
    np.testing.assert_allclose(known.effective_ranks, expected, rtol=1e-4)


def test_a_block_that_is_nearly_dead_has_next_to_no_share():
    kernel = jax.random.normal(jax.random.key(0), (30, 20)).at[:, 10:].multiply(1e-3)
    layout = partition([kernel], block_size=10)
    known = Statistics(jnp.ones(2), layout.leaves([kernel]), layout)
    alive, dead = known.effective_ranks
    assert alive > 6
    assert dead < 1e-5


def test_a_vector_counts_as_the_diagonal_matrix_that_it_scales_by():
    vector = jnp.asarray([3.0, 3.0, 3.0, 0.0, 0.0])
    layout = partition({"scale": vector}, block_size=1)
    known = Statistics(jnp.ones(5), layout.leaves({"scale": vector}), layout)
    np.testing.assert_allclose(known.effective_ranks, [1, 1, 1, 0, 0], rtol=1e-5)
    np.testing.assert_allclose(effective_rank(jnp.diag(vector)), 3, rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-16, 1e-12, 1.0, 1e16])
def test_jacobian_rank_does_not_depend_on_scale(scale):
    scaled = jax.tree.map(lambda x: x * scale, PARAMS)
    ranks = Statistics(NORMS, LAYOUT.leaves(scaled), LAYOUT).effective_ranks
    np.testing.assert_allclose(ranks, KNOWN.effective_ranks, rtol=1e-4)


@pytest.mark.parametrize("name", CAPACITIES)
def test_every_rule_is_finite_nonnegative_and_jits(name):
    def capacities(norms, params):
        return CAPACITIES[name].function(Statistics(norms, LAYOUT.leaves(params), LAYOUT), LAYOUT)

    eager = capacities(NORMS, PARAMS)
    assert eager.shape == NORMS.shape
    assert np.isfinite(eager).all()
    assert (np.asarray(eager) >= 0).all()
    np.testing.assert_allclose(jax.jit(capacities)(NORMS, PARAMS), eager, rtol=1e-4)
    batch = jnp.stack([NORMS, NORMS[::-1]])
    batched = jax.vmap(capacities, in_axes=(0, None))(batch, PARAMS)
    np.testing.assert_allclose(batched[1], capacities(batch[1], PARAMS), rtol=1e-4)


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="must be one of rank, norm, energy"):
        capacity_rule("ranks")


def test_missing_params_say_what_to_do():
    with pytest.raises(ValueError, match=r"call update\(updates, state, params\)"):
        _ = Statistics(NORMS, None, LAYOUT).parameter_norms
