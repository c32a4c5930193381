"""The blocks are those on the diagonal of the whole matrix."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from pfn_optax.curvature import (
    dense_matrix,
    gauss_newton_operator,
    hessian_operator,
    layer_functions,
)
from tests.curvature.models import data, hessian, loss, network, parameters, squared_error


@pytest.mark.usefixtures("x64")
def test_blocks_of_the_hessian_and_of_gauss_newton():
    params, args = parameters(), data()
    # Where each layer stands in the ravelled tree.
    numbered = ravel_pytree(params)[1](jnp.arange(30.0))
    places = {
        "in": np.int32(ravel_pytree(numbered["in"])[0]),
        "": np.int32(numbered["out"].ravel()),
    }
    whole = {
        "hessian": hessian(params, *args),
        "gauss newton": dense_matrix(gauss_newton_operator(network, squared_error, params, *args)),
    }
    losses, models = layer_functions(loss, params), layer_functions(network, params)
    assert set(losses) == set(models) == set(places)
    for name, at in places.items():
        on_loss, own = losses[name]
        on_model, _ = models[name]
        blocks = {
            "hessian": hessian_operator(on_loss, own, *args),
            "gauss newton": gauss_newton_operator(on_model, squared_error, own, *args),
        }
        for kind, operator in blocks.items():
            expected = np.asarray(whole[kind])[np.ix_(at, at)]
            np.testing.assert_allclose(dense_matrix(operator), expected, atol=1e-12)


def test_layers_of_a_tree_without_names():
    layers = layer_functions(lambda p: p**3, 2.0)
    [(function, own)] = layers.values()
    assert function(own) == 8
    assert jax.tree.leaves(own) == [2.0]
