"""Modules of NNX keep their function and can be trained on."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from pfn_optax.growth import grow_module, widths
from pfn_optax.growth.sizes import sizes_of
from pfn_optax.units import unit_spec

pytestmark = pytest.mark.usefixtures("unoptimized")

IMAGES = np.random.default_rng(0).normal(size=(2, 6, 6, 3)).astype(np.float32)
SEQUENCES = np.random.default_rng(1).normal(size=(2, 4, 6)).astype(np.float32)


def spec_of(module, *inputs):
    graph, params, rest = nnx.split(module, nnx.Param, ...)
    return unit_spec(
        lambda tree, *inputs: nnx.merge(graph, *tree)(*inputs), (params, rest), *inputs, check=False
    )


class Convolutions(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Conv(3, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, use_running_average=True, rngs=rngs)
        self.up = nnx.ConvTranspose(4, 5, (2, 2), transpose_kernel=True, rngs=rngs)
        self.head = nnx.Linear(5, 2, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.relu(self.up(nnx.relu(self.norm(self.first(x))))).mean((1, 2)))


class Block(nnx.Module):
    def __init__(self, rngs):
        self.attention = nnx.MultiHeadAttention(2, 6, decode=False, rngs=rngs)
        self.norm = nnx.LayerNorm(6, rngs=rngs)
        self.up = nnx.Linear(6, 8, rngs=rngs)
        self.down = nnx.Linear(8, 6, rngs=rngs)

    def __call__(self, x):
        x = x + self.attention(x)
        return x + self.down(nnx.gelu(self.up(self.norm(x))))


class Recurrent(nnx.Module):
    def __init__(self, cell, rngs):
        self.rnn = nnx.RNN(cell(6, 3, rngs=rngs))
        self.head = nnx.Linear(3, 2, rngs=rngs)

    def __call__(self, x):
        return self.head(self.rnn(x)[:, -1])


CASES = {
    "convolutions": (Convolutions, IMAGES),
    "attention": (Block, SEQUENCES),
    "LSTM": (lambda rngs: Recurrent(nnx.LSTMCell, rngs), SEQUENCES),
    "optimized LSTM": (lambda rngs: Recurrent(nnx.OptimizedLSTMCell, rngs), SEQUENCES),
    "GRU": (lambda rngs: Recurrent(nnx.GRUCell, rngs), SEQUENCES),
}


@pytest.mark.parametrize("name", CASES)
def test_modules_grow(name):
    """The function is compared inside; the attributes are those of their variables."""
    make, x = CASES[name]
    module = make(nnx.Rngs(0))
    spec = spec_of(module, x)
    # Attention takes values as wide as queries only: heads grow, and not what is in them.
    added = {
        group.name: 2
        for group in spec.groups
        if group.is_splittable and not (name == "attention" and group.size == 3)
    }
    assert added
    before = module(x)
    grown = grow_module(module, spec, added, inputs=(x,), key=jax.random.key(0))
    np.testing.assert_allclose(grown.module(x), before, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(module(x), before)
    for _, node in nnx.iter_graph(grown.module):
        if isinstance(node, nnx.Module):
            for attribute, value in (sizes_of(node) or {}).items():
                assert getattr(node, attribute) == value
    assert widths(grown.spec) == {
        group: size + added.get(group, 0) for group, size in widths(spec).items()
    }
    if name == "attention":
        assert grown.module.attention.num_heads == 4
        assert grown.module.attention.qkv_features == 12
        assert grown.module.up.out_features == grown.module.down.in_features == 10


def test_the_optimizer_goes_on():
    """Of NNX with its module, of optax with the parameters."""
    module = nnx.Sequential(
        nnx.Linear(3, 4, rngs=nnx.Rngs(0)), nnx.tanh, nnx.Linear(4, 2, rngs=nnx.Rngs(1))
    )
    x = jnp.ones((5, 3))
    spec = spec_of(module, x)
    name = spec.groups[0].name
    optimizer = nnx.Optimizer(module, optax.adam(0.1), wrt=nnx.Param)

    def step(module, optimizer):
        slopes = nnx.grad(lambda module: jnp.sum(jnp.square(module(x) - 1)))(module)
        optimizer.update(module, slopes)

    step(module, optimizer)
    options = {"inputs": (x,), "key": jax.random.key(0), "spread": 0.5, "units": [1]}
    grown = grow_module(module, spec, name, 1, optimizer=optimizer, **options)
    assert grown.optimizer.step[...] == 1
    old, new = (
        nnx.to_pure_dict(nnx.state(each))["opt_state"][0] for each in (optimizer, grown.optimizer)
    )
    old_mu, new_mu = (each["mu"]["layers"] for each in (old, new))
    np.testing.assert_allclose(new_mu[2]["kernel"][4], old_mu[2]["kernel"][1], rtol=1e-6)
    share = grown.module.layers[2].kernel[...][4, 0] / module.layers[2].kernel[...][1, 0]
    copied = new_mu[0]["kernel"][:, 4]
    np.testing.assert_allclose(copied, share * old_mu[0]["kernel"][:, 1], rtol=1e-5)
    step(grown.module, grown.optimizer)
    assert grown.optimizer.step[...] == 2

    plain = optax.adam(0.1)
    state = plain.init(nnx.state(module, nnx.Param))
    grown = grow_module(
        module, spec, name, 1, optimizer=plain, optimizer_state=state, how="fresh", **options
    )
    assert grown.optimizer_state[0].mu["layers"][0]["kernel"][...].shape == (3, 5)


class Own(nnx.Module):
    def __init__(self, width, rngs):
        self.width = width
        self.w = nnx.Param(jax.random.normal(rngs.params(), (3, width)))
        self.head = nnx.Linear(width, 2, rngs=rngs)

    def __call__(self, x):
        return self.head(jnp.tanh(x @ self.w[...]))


class Around(nnx.Module):
    def __init__(self, width, rngs):
        self.inner = nnx.Linear(3, width, rngs=rngs)
        self.head = nnx.Linear(width, 2, rngs=rngs)
        self.width = width

    def __call__(self, x):
        return self.head(jnp.tanh(self.inner(x)).reshape(-1, self.width))


class Scaled(Around):
    def __call__(self, x):
        return self.head(jnp.tanh(self.inner(x))) / self.head.in_features


def test_modules_of_ones_own():
    x = jnp.ones((5, 3))
    options = {"inputs": (x,), "key": jax.random.key(0)}
    module = Own(4, nnx.Rngs(0))
    spec = spec_of(module, x)
    name = spec.groups[0].name
    with pytest.raises(ValueError, match=r"the module \(Own\) holds width = 4, .* sizes={Own:"):
        grow_module(module, spec, name, 1, **options)
    sizes = {Own: lambda module: {"width": module.w.shape[1]}}
    grown = grow_module(module, spec, name, 1, sizes=sizes, **options).module
    assert (grown.width, module.width) == (5, 4)
    # A size of a module that has no variables of its own is found by calling it.
    module = Around(4, nnx.Rngs(0))
    spec = spec_of(module, x)
    name = spec.groups[0].name
    with pytest.raises(ValueError, match=r"cannot be called.* \(Around\): width = 4"):
        grow_module(module, spec, name, 1, **options)
    sizes = {Around: lambda module: {"width": module.inner.out_features}}
    assert grow_module(module, spec, name, 1, sizes=sizes, **options).module.width == 5
    module = Scaled(4, nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"outputs .* differ by .* a number that depends on a wi"):
        grow_module(module, spec_of(module, x), name, 1, **options)


def test_a_spec_made_in_training_mode_is_refused():
    """Running statistics are not read there, so it does not know them."""
    x = jnp.ones((5, 3))
    module = nnx.Sequential(
        nnx.Linear(3, 4, rngs=nnx.Rngs(0)),
        nnx.BatchNorm(4, rngs=nnx.Rngs(0)),
        nnx.relu,
        nnx.Linear(4, 2, rngs=nnx.Rngs(1)),
    )
    spec = spec_of(module, x)
    name = spec.groups[0].name
    module.eval()
    options = {"inputs": (x,), "key": jax.random.key(0)}
    with pytest.raises(ValueError, match=r"layers/1/mean .* in training mode"):
        grow_module(module, spec, name, 1, **options)
    assert grow_module(module, spec_of(module, x), name, 1, **options).module(x).shape == (5, 2)
