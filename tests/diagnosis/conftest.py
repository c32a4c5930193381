"""Networks whose programs all tests of a module share; compilation is most of the time."""

import jax
import jax.numpy as jnp
import pytest

from tests.diagnosis.cases import mlp, recurrent


@pytest.fixture(scope="module", autouse=True)
def unoptimized(unoptimized):
    """For every module here."""


@pytest.fixture(scope="package")
def relu_net():
    """ReLU by He's rule."""
    return mlp(jax.nn.relu, 2.0)


@pytest.fixture(scope="package")
def tanh_net():
    """Tanh at a variance of 1 / fan-in."""
    return mlp(jnp.tanh, 1.0)


@pytest.fixture(scope="package")
def linear_net():
    """No activation, so that scales multiply."""
    return mlp(lambda h: h, 1.0)


@pytest.fixture(scope="package")
def recurrent_net():
    """Linear, over time."""
    return recurrent()
