"""Growth inside arrays of one size is growth, and the padding stays empty."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pfn_optax import pfn
from pfn_optax.growth import (
    grow,
    grow_padded,
    only_active,
    pad,
    repad,
    shrink,
    state_kinds,
    unpad,
    widths,
)
from pfn_optax.precision import double_precision
from tests.growth.networks import SPEC, assert_close, gradient, weights

pytestmark = pytest.mark.usefixtures("unoptimized", "x64")

FULL = {"first": 9, "second": 6}
GROWTH = {"how": "fresh", "key": jax.random.key(1)}
OPTIMIZER = optax.chain(
    pfn(capacity="norm", num_blocks=1, every=2), optax.adamw(0.03, weight_decay=0.01)
)


@pytest.fixture(scope="module")
def padded_spec():
    return pad(weights(0), SPEC, FULL).spec


@pytest.fixture(scope="module")
def train(padded_spec):
    """Steps of training of networks of any widths, and of padded ones."""
    masked = only_active(OPTIMIZER, padded_spec)

    def steps(params, state, active=None):
        def step(carry, _):
            params, state = carry
            if active is None:
                updates, state = OPTIMIZER.update(gradient(params), state, params)
            else:
                updates, state = masked.update(gradient(params), state, params, active_units=active)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, state), length=5)[0]

    return jax.jit(steps)


@pytest.fixture(scope="module")
def kinds():
    with double_precision():
        return state_kinds(OPTIMIZER, jax.tree.map(jnp.asarray, weights(0)))


@pytest.mark.parametrize("how", ["fresh", "split"])
def test_a_padded_network_trains_and_grows_as_the_narrow_one(how, train, kinds, padded_spec):
    options = {"optimizer": OPTIMIZER, "kinds": kinds}
    params = jax.tree.map(jnp.asarray, weights(0))
    state = OPTIMIZER.init(params)
    padded = pad(params, SPEC, FULL, optimizer_state=state, **options)
    narrow = train(params, state)
    inside = train(padded.params, padded.optimizer_state, widths(SPEC))

    growth = {"how": how, "key": jax.random.key(1), **options}
    wide = grow(narrow[0], SPEC, {"first": 2, "second": 1}, optimizer_state=narrow[1], **growth)
    held = grow_padded(
        inside[0], padded_spec, SPEC, {"first": 2, "second": 1}, optimizer_state=inside[1], **growth
    )
    assert held.spec == wide.spec
    assert jax.tree.map(jnp.shape, held.params) == jax.tree.map(jnp.shape, padded.params)
    # Six steps of averages and one more diagnosis behind: the padding has not moved.
    after = train(wide.params, wide.optimizer_state)
    inside = train(held.params, held.optimizer_state, widths(held.spec))
    back = unpad(inside[0], padded_spec, held.spec, optimizer_state=inside[1], **options)
    assert_close(back.params, after[0])
    assert_close(back.optimizer_state[1], after[1][1])
    again = pad(back.params, back.spec, FULL)
    assert_close(again.params, inside[0], 0)


def test_members_of_an_ensemble_have_their_own_widths(train, kinds, padded_spec):
    options = {"optimizer": OPTIMIZER, "kinds": kinds}
    params = jax.tree.map(jnp.asarray, weights(0))
    first = pad(params, SPEC, FULL, optimizer_state=OPTIMIZER.init(params), **options)
    second = grow_padded(
        first.params,
        padded_spec,
        SPEC,
        "second",
        3,
        optimizer_state=first.optimizer_state,
        **GROWTH,
        **options,
    )
    members = [
        (each.params, each.optimizer_state, widths(spec))
        for each, spec in ((first, SPEC), (second, second.spec))
    ]
    together = jax.vmap(train)(*jax.tree.map(lambda *leaves: jnp.stack(leaves), *members))
    alone = [train(*member) for member in members]
    assert_close(together, jax.tree.map(lambda *leaves: jnp.stack(leaves), *alone))


def test_shrinking_goes_back_into_the_padding(padded_spec):
    params = jax.tree.map(jnp.asarray, weights(0))
    wide = grow(params, SPEC, "first", 2, **GROWTH)
    small = shrink(wide.params, wide.spec, "first", 2)
    padded = repad(small, padded_spec)
    assert_close(padded.params, pad(params, SPEC, FULL).params)
    assert widths(padded.spec) == widths(SPEC)


def test_what_pfn_knows_of_padded_blocks_stays(padded_spec):
    optimizer = pfn(block_size=2, every=1, capacity="norm")
    params = pad(jax.tree.map(jnp.asarray, weights(0)), SPEC, FULL).params
    state = optimizer.init(params)
    _, state = optimizer.update(params, state)
    wide = grow_padded(
        params,
        padded_spec,
        SPEC,
        "first",
        4,
        optimizer=optimizer,
        optimizer_state=state,
        kinds={},
        **GROWTH,
    )
    np.testing.assert_array_equal(wide.optimizer_state.pfn_norms, state.pfn_norms)


def test_bad_sizes_are_refused(padded_spec):
    params = pad(weights(0), SPEC, FULL).params
    with pytest.raises(ValueError, match="has 4 units, so it cannot be padded to 3"):
        pad(weights(0), SPEC, {"first": 3})
    with pytest.raises(ValueError, match="would have 11 units, but is padded to 9"):
        grow_padded(params, padded_spec, SPEC, "first", 7, **GROWTH)
    optimizer = only_active(optax.sgd(0.1), padded_spec)
    with pytest.raises(ValueError, match="active_units=widths"):
        optimizer.update(params, optimizer.init(params), params)
    with pytest.raises(ValueError, match="no group 'third'"):
        optimizer.update(params, optimizer.init(params), params, active_units={"third": 1})
    narrow = only_active(optax.sgd(0.1), SPEC)
    with pytest.raises(ValueError, match="made for shape"):
        narrow.update(params, narrow.init(params), params, active_units={"first": 1})
