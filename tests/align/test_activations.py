"""Activations read off functions, and units matched by them."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pfn_optax.align import AlignmentStatus, align, align_many
from pfn_optax.align.correlation import correlations
from pfn_optax.tracing import interpret, trace
from pfn_optax.units import unit_activations, unit_spec
from tests.align.networks import mlp, mlp_output, mlp_spec, random_permutations, zoo

pytestmark = pytest.mark.usefixtures("unoptimized")

SIZES = (5, 6, 4, 2)
SPEC = mlp_spec(SIZES)


def hidden(params, x):
    """Activations of both layers by hand."""
    first = np.maximum(x @ params["l0"]["w"] + params["l0"]["b"], 0)
    return {"l0": first, "l1": np.maximum(first @ params["l1"]["w"] + params["l1"]["b"], 0)}


def output(params, x):
    for layer in range(2):
        x = jax.nn.relu(x @ params[f"l{layer}"]["w"] + params[f"l{layer}"]["b"])
    return x @ params["l2"]["w"] + params["l2"]["b"]


def data(seed, num=200):
    return np.random.default_rng(seed).standard_normal((num, SIZES[0]))


def test_activations_are_taken_after_the_nonlinearity(x64):
    a, x = mlp(SIZES, 0), data(0, 7)
    found, expected = unit_activations(output, a, x)(a, x), hidden(a, x)
    assert {*found} == {*expected}
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-12)
    np.testing.assert_allclose(output(a, x), mlp_output(a, x), rtol=1e-12)


@pytest.mark.parametrize("name", ["cnn", "resnet", "densenet", "transformer", "elman"])
def test_activations_move_with_the_units(name):
    """Whichever value they are read off: a permuted network has them in the permuted order."""
    spec, a, _, function, args = zoo(name)
    record = jax.jit(unit_activations(function, a, *args))
    permutations = random_permutations(spec, 2)
    before, after = record(a, *args), record(spec.permute(a, permutations), *args)
    assert {*before} == {group.name for group in spec.groups}
    for group in spec.groups:
        values = np.asarray(before[group.name])
        assert values.shape[1] == group.size
        moved = values[:, permutations[group.name]]
        np.testing.assert_allclose(after[group.name], moved, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["cnn", "scanned_layers", "elman"])
def test_a_program_runs_to_what_its_function_returns(name):
    _, a, _, function, args = zoo(name)
    traced = trace(function, a, *args)
    [result] = interpret(
        traced.program,
        jax.tree.leaves((a, *args)),
        constant=lambda constant: constant.value,
        apply=lambda equation, values: equation.run(*values),
    )
    np.testing.assert_allclose(result, function(a, *args), rtol=1e-5, atol=1e-5)


def batches(models, seeds):
    return [[hidden(model, data(seed)) for model in models] for seed in seeds]


def test_a_planted_permutation_is_found():
    a = mlp(SIZES, 0)
    planted = random_permutations(SPEC, 0)
    b = SPEC.permute(a, planted)
    alignment = align(a, b, SPEC, method="activation", activations=batches([a, b], range(3)))
    for name, permutation in alignment.permutations.items():
        np.testing.assert_array_equal(permutation, np.argsort(planted[name]))
    assert alignment.after == 0
    assert alignment.status is AlignmentStatus.ONE_PASS


def test_a_planted_permutation_of_a_resnet_is_found():
    spec, a, _, function, args = zoo("resnet")
    record = jax.jit(unit_activations(function, a, *args))
    images = jax.random.normal(jax.random.key(0), (8, *args[0].shape[1:]))
    b = spec.permute(a, random_permutations(spec, 2))
    pairs = [(record(a, images, args[1]), record(b, images, args[1]))]
    assert align(a, b, spec, method="activation", activations=pairs).after == 0


def test_copies_meet_at_the_first():
    a = mlp(SIZES, 0)
    models = [a, *(SPEC.permute(a, random_permutations(SPEC, seed)) for seed in range(3))]
    found = align_many(models, SPEC, method="activation", activations=batches(models, range(2)))
    assert [alignment.after for alignment in found] == pytest.approx([0] * 4)
    assert all(alignment.status is AlignmentStatus.CONVERGED for alignment in found)


def test_correlations_are_numpys_however_the_data_is_split():
    a, b = mlp(SIZES, 0), mlp(SIZES, 1)
    x = 1e4 + data(0, 60)
    values = hidden(a, x)["l0"], hidden(b, x)["l0"]
    varies = [side.std(axis=0) > 0 for side in values]
    expected = np.corrcoef(
        *(side[:, keep] for side, keep in zip(values, varies, strict=True)), rowvar=False
    )
    num = int(varies[0].sum())
    for cuts in ([60], [1, 20, 60], [30, 30, 60]):
        edges = [0, *cuts]
        parts = [
            [hidden(net, x[start:stop]) for net in (a, b)]
            for start, stop in itertools.pairwise(edges)
        ]
        found = correlations(SPEC, parts, 2).between("l0", 0, 1)
        assert found.shape == (6, 6)
        np.testing.assert_allclose(found[np.ix_(*varies)], expected[:num, num:], atol=1e-9)


def test_units_that_never_vary_match_what_is_left():
    a = mlp(SIZES, 0)
    a["l0"]["b"][2] = -1e3
    b = SPEC.permute(a, {"l0": [2, 0, 1, 5, 4, 3]})
    given = batches([a, b], range(2))
    table = correlations(SPEC, given, 2).between("l0", 0, 1)
    assert (table[2] == 0).all()
    assert (table[:, 0] == 0).all()
    alignment = align(a, b, SPEC, method="activation", activations=given)
    np.testing.assert_array_equal(alignment.permutations["l0"], np.argsort([2, 0, 1, 5, 4, 3]))


def test_bad_activations():
    a = mlp(SIZES, 0)
    good = hidden(a, data(0, 4))

    def run(given):
        return align(a, a, SPEC, method="activation", activations=given)

    with pytest.raises(ValueError, match="needs activations: for each batch"):
        run(None)
    with pytest.raises(ValueError, match="activations is empty"):
        run(iter(()))
    with pytest.raises(ValueError, match="one mapping for each of 2 networks, got 1"):
        run([[good]])
    with pytest.raises(ValueError, match="lack the group 'l1'; they have l0"):
        run([[good, {"l0": good["l0"]}]])
    with pytest.raises(ValueError, match=r"of 'l0' must have the shape \[..., 6\], got \(4, 5\)"):
        run([[good, good | {"l0": np.ones((4, 5))}]])
    with pytest.raises(ValueError, match=r"of 'l0' have \[4, 3\] rows"):
        run([[good, good | {"l0": np.ones((3, 6))}]])
    with pytest.raises(ValueError, match="of 'l0' have NaN"):
        run([[good, good | {"l0": np.full((4, 6), np.nan)}]])


def test_groups_inside_of_a_loop_only_are_left_out():
    spec, a, _, function, args = zoo("scanned_layers")
    found = unit_activations(function, a, *args)(a, *args)
    assert {*found} < {group.name for group in spec.groups}
    assert unit_spec(function, a, *args, check=False) == spec
    assert all(isinstance(values, jnp.ndarray) for values in found.values())
