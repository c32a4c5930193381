"""One block of several without the residual connection that the others have."""

import jax
import jax.numpy as jnp
import pytest

from pfn_optax.diagnosis import Cause, Severity
from pfn_optax.diagnosis.case import Skip
from pfn_optax.diagnosis.checks.missing_residual import check_missing_residual
from tests.diagnosis.quadratics import case_of

X = jax.random.normal(jax.random.key(0), (16, 8))


def case_with(skips, *, names="blocks/{}", widths=None):
    """Blocks of two layers, with a residual connection or without."""
    widths = widths or [8] * len(skips)
    keys = iter(jax.random.split(jax.random.key(1), 2 * len(skips) + 2))
    params: dict = {"stem": jax.random.normal(next(keys), (8, 8)) / 3, "head": jnp.ones((8, 3))}
    blocks = [names.format(i) for i in range(len(skips))]
    for block, width in zip(blocks, widths, strict=True):
        params[block] = {
            "up": {"kernel": jax.random.normal(next(keys), (8, width)) / 3},
            "down": {"kernel": jax.random.normal(next(keys), (width, 8)) / 3},
        }

    def loss(params, x):
        h = x @ params["stem"]
        for block, has_skip in zip(blocks, skips, strict=True):
            inside = jnp.tanh(h @ params[block]["up"]["kernel"]) @ params[block]["down"]["kernel"]
            h = h + inside if has_skip else inside
        return jnp.mean((h @ params["head"]) ** 2)

    return case_of(loss, params, X)


def test_the_block_without_is_named():
    [found] = check_missing_residual(case_with([1, 1, 0, 1]))
    assert (found.cause, found.severity) == (Cause.MISSING_RESIDUAL, Severity.WARNING)
    assert set(found.layers) == {"blocks/2/up", "blocks/2/down"}
    assert "Give blocks/2 the residual" in found.remedy
    assert "3 other blocks" in found.summary


def test_blocks_are_numbered_in_any_way():
    [found] = check_missing_residual(case_with([1, 0, 1, 1], names="Block_{}"))
    assert set(found.layers) == {"Block_1/up", "Block_1/down"}
    found = check_missing_residual(case_with([1, 1, 0, 1, 1, 1, 1, 0, 1]))
    assert [set(one.layers) for one in found] == [
        {f"blocks/{i}/up", f"blocks/{i}/down"} for i in (2, 7)
    ]


@pytest.mark.parametrize(
    "skips",
    [[1, 1, 1, 1], [0, 0, 0, 0], [0, 1, 1, 1], [1, 1, 1, 0], [1, 0, 1], [1, 0, 0, 1, 1, 1]],
    ids=["all", "none", "the first", "the last", "of three", "two of six"],
)
def test_what_may_be_meant_is_not_named(skips):
    assert not list(check_missing_residual(case_with(skips)))


def test_a_block_of_another_shape_is_not_compared():
    assert not list(check_missing_residual(case_with([1, 1, 0, 1], widths=[8, 8, 6, 8])))


def test_layers_that_are_numbered_themselves_are_no_blocks():
    """They are of all kinds: Linen numbers every Dense of a module."""
    keys = jax.random.split(jax.random.key(1), 5)
    params = {f"Dense_{i}": jax.random.normal(key, (8, 8)) / 3 for i, key in enumerate(keys)}

    def loss(params, x):
        for i in range(5):
            inside = jnp.tanh(x @ params[f"Dense_{i}"])
            x = inside if i == 2 else x + inside
        return jnp.mean(x**2)

    case = case_of(loss, params, X)
    assert case.structure.serial == {"Dense_2"}
    assert not list(check_missing_residual(case))


def test_without_a_graph_it_is_skipped():
    case = case_of(lambda params, x: jnp.sum(params["w"] ** 2), {"w": jnp.ones((3, 3))}, X)
    with pytest.raises(Skip, match="depends on no data"):
        list(check_missing_residual(case))
