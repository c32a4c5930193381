"""Models that loop: over time with one state, and over layers with stacked parameters."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from tests.zoo.case import Case, Make, concrete, integers, linen_case, plain_case, vectors


class _Recurrent(nn.Module):
    cell: type[nn.RNNCellBase]
    width: int
    num_classes: int

    @nn.compact
    def __call__(self, x):
        states = nn.RNN(self.cell(self.width, name="cell"))(x)
        return nn.Dense(self.num_classes, name="head")(states[:, -1])


def gru(width=4, length=3, make: Make = concrete) -> Case:
    """Gated recurrent units, and a head on the last state."""
    inputs, labels = vectors(make, 2, length, 5), integers(make, 3, 2)
    return linen_case("GRU", _Recurrent(nn.GRUCell, width, 3), inputs, labels, make=make)


def lstm(width=4, length=3, make: Make = concrete) -> Case:
    """Long short-term memory (Hochreiter and Schmidhuber 1997): two states, a head on the last."""
    inputs, labels = vectors(make, 2, length, 5), integers(make, 3, 2)
    return linen_case("LSTM", _Recurrent(nn.LSTMCell, width, 3), inputs, labels, make=make)


def elman(width=4, length=3, make: Make = concrete) -> Case:
    """The simple recurrent network (Elman 1990) in plain JAX, from a state of zeros."""

    def init():
        keys = jax.random.split(jax.random.key(0), 3)
        return {
            "input": {"w": jax.random.normal(keys[0], (5, width)), "b": jnp.zeros(width)},
            "recurrent": {"w": jax.random.normal(keys[1], (width, width))},
            "head": {"w": jax.random.normal(keys[2], (width, 3))},
        }

    def apply(params, x):
        def step(state, x):
            entering = x @ params["input"]["w"] + params["input"]["b"]
            return jnp.tanh(state @ params["recurrent"]["w"] + entering), None

        state, _ = jax.lax.scan(step, jnp.zeros((x.shape[0], width)), x.swapaxes(0, 1))
        return state @ params["head"]["w"]

    inputs, labels = vectors(make, 2, length, 5), integers(make, 3, 2)
    return plain_case("Elman network", make(init), apply, inputs, labels)


class _ResidualLayer(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        y = nn.gelu(nn.Dense(2 * x.shape[-1], name="up")(nn.LayerNorm()(x)))
        return x + nn.Dense(x.shape[-1], name="down")(y), None


class _Scanned(nn.Module):
    num_layers: int
    width: int
    num_classes: int

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(self.width, name="stem")(x)
        layers = nn.scan(
            _ResidualLayer,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=self.num_layers,
        )
        x, _ = layers(name="layers")(x, None)
        return nn.Dense(self.num_classes, name="head")(x)


def scanned_layers(num_layers=3, width=4, make: Make = concrete) -> Case:
    """Residual layers as one scan, their parameters stacked along a leading axis."""
    inputs, labels = vectors(make, 2, 5), integers(make, 3, 2)
    return linen_case("scanned layers", _Scanned(num_layers, width, 3), inputs, labels, make=make)
