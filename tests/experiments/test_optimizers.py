"""Optax aliases by name."""

import jax
import jax.numpy as jnp
import optax
import pytest

from experiments import optimizers

pytestmark = pytest.mark.usefixtures("unoptimized")


def test_every_alias_takes_steps():
    params = {"a": {"kernel": jnp.ones((4, 3))}, "b": {"kernel": jnp.ones((3, 2))}}
    grads = jax.tree.map(lambda leaf: 0.1 * leaf, params)
    names = optimizers.aliases()
    assert {"adam", "adamw", "sgd", "lion", "rmsprop", "adadelta"} <= set(names)
    for name in names:
        rate = optimizers.default_learning_rate(name)
        optimizer = optimizers.wrap("plain", optimizers.make_optimizer(name, learning_rate=rate))
        extra = {"value": jnp.float32(1), "grad": grads}
        _, state = optimizer.update(grads, optimizer.init(params), params, **extra)
        updates, _ = optimizer.update(grads, state, params, **extra)  # rprop rests in the first
        assert optax.tree.norm(updates) > 0, name


def test_options_reach_the_optimizer():
    plain = optimizers.make_optimizer("sgd", learning_rate=0.1)
    heavy = optimizers.make_optimizer("sgd", learning_rate=0.1, options={"momentum": 0.9})
    params = jnp.ones(3)
    assert len(jax.tree.leaves(heavy.init(params))) > len(jax.tree.leaves(plain.init(params)))


def test_unknown_alias_is_answered_with_near_ones():
    with pytest.raises(ValueError, match=r"got 'adamm'. Did you mean adam"):
        optimizers.make_optimizer("adamm", learning_rate=0.1)
    with pytest.raises(ValueError, match=r"got 'qqqqqq'. Known: .*adamw.*sgd"):
        optimizers.make_optimizer("qqqqqq", learning_rate=0.1)


def test_unknown_option():
    with pytest.raises(ValueError, match=r"optax\.sgd has no option 'momentun'; it has momentum"):
        optimizers.make_optimizer("sgd", learning_rate=0.1, options={"momentun": 0.9})


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_learning_rate_must_be_positive(rate):
    with pytest.raises(
        ValueError, match=r"learning_rate must be positive and finite; .*0.05 for sgd"
    ):
        optimizers.make_optimizer("sgd", learning_rate=rate)


def test_unknown_arm():
    with pytest.raises(ValueError, match="arm must be plain, pfn or with_pfn; got 'without'"):
        optimizers.wrap("without", optax.sgd(0.1))  # pyright: ignore[reportArgumentType]
