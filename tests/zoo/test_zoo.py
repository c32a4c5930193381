import jax
import jax.numpy as jnp
import pytest

from pfn_optax.partition import partition
from pfn_optax.paths import named_leaves
from tests.zoo import LARGE, SMALL


@pytest.mark.parametrize("name", sorted(SMALL | LARGE))
def test_models_map_their_arguments_to_a_scalar_loss(name):
    case = (SMALL | LARGE)[name](make=jax.eval_shape)
    output = jax.eval_shape(case.apply, case.params, *case.args)
    loss = jax.eval_shape(case.loss, case.params, *case.args)
    assert jnp.issubdtype(output.dtype, jnp.floating)
    assert (loss.shape, loss.dtype) == ((), jnp.float32)


@pytest.mark.parametrize(
    "name", ["resnet", "resnet_bottleneck", "resnet18", "resnet50", "transformer"]
)
def test_linen_and_nnx_have_the_same_layers(name):
    """Same names, same shapes; norms are named apart."""
    models = SMALL | LARGE
    linen, nnx = models[name](make=jax.eval_shape), models[f"nnx_{name}"](make=jax.eval_shape)
    assert partition(linen.params).layers == partition(nnx.params).layers


@pytest.mark.parametrize(
    ("name", "millions"),
    [("vgg16", 138.36), ("resnet20", 0.27), ("resnet18", 11.69), ("resnet50", 25.56)],
)
def test_large_models_have_as_many_parameters_as_in_the_paper(name, millions):
    params = LARGE[name](make=jax.eval_shape).params
    assert round(sum(leaf.size for _, leaf in named_leaves(params)) / 1e6, 2) == millions


@pytest.mark.parametrize("name", ["mlp", "nnx_transformer"])
def test_arrays_are_made_as_their_shapes_say(name):
    case, shapes = SMALL[name](), SMALL[name](make=jax.eval_shape)
    assert [(path, leaf.shape, leaf.dtype) for path, leaf in named_leaves(case.params)] == [
        (path, leaf.shape, leaf.dtype) for path, leaf in named_leaves(shapes.params)
    ]
    assert jnp.isfinite(jax.jit(case.loss)(case.params, *case.args))
