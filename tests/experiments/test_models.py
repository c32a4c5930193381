"""Shapes, and the rule that parameter paths sort in the order of the forward pass."""

from typing import get_args

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from experiments import models
from pfn_optax.partition import partition


def abstract(scenario, image_shape=(8, 8, 1), num_classes=10):
    return nnx.eval_shape(
        lambda: models.build(
            scenario, image_shape=image_shape, num_classes=num_classes, rngs=nnx.Rngs(0)
        )
    )


@pytest.mark.parametrize("scenario", get_args(models.Scenario))
@pytest.mark.parametrize("image_shape", [(8, 8, 1), (28, 28, 1), (32, 32, 3)])
def test_maps_images_to_logits(scenario, image_shape):
    graphdef, variables = nnx.split(abstract(scenario, image_shape, 100))
    images = jnp.zeros((2, *image_shape))
    logits = jax.eval_shape(lambda v: nnx.merge(graphdef, v)(images), variables)
    assert logits.shape == (2, 100)


@pytest.mark.parametrize("scenario", get_args(models.Scenario))
def test_paths_sort_in_forward_order(scenario):
    graphdef, params, rest = nnx.split(abstract(scenario), nnx.Param, ...)
    leaves, treedef = jax.tree.flatten(params)

    def forward(leaves, rest):
        return nnx.merge(graphdef, jax.tree.unflatten(treedef, leaves), rest)(
            jnp.zeros((1, 8, 8, 1))
        )

    jaxpr = jax.make_jaxpr(forward)(leaves, rest).jaxpr
    used = [
        jaxpr.invars.index(equation.invars[1])
        for equation in jaxpr.eqns
        if equation.primitive.name in ("conv_general_dilated", "dot_general")
    ]
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]]
    in_forward_order = [
        jax.tree_util.keystr(paths[i], simple=True, separator="/").partition("/kernel")[0]
        for i in used
    ]
    assert [layer.name for layer in partition(params).layers] == in_forward_order


def test_unknown_scenario():
    with pytest.raises(ValueError, match=r"scenario must be one of cnn_bn, .*; got 'vgg'"):
        abstract("vgg")
