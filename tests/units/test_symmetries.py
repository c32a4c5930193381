"""Models of real depth, and how many symmetries those of the papers have."""

import math

import jax
import pytest

from pfn_optax.paths import named_leaves
from pfn_optax.units import check_spec, num_symmetries, unit_spec
from tests.units.test_models import sizes, spec_of, with_statistics
from tests.zoo import LARGE, RESNET20, VGG16, mlp, resnet, vgg

# As deep as in the papers; narrower, where that is all that differs.
DEEP = {
    "vgg16": lambda make: vgg(
        stages=[[width // 16 for width in stage] for stage in VGG16["stages"]],
        dense=(32, 32, 10),
        image=32,
        make=make,
    ),
    "resnet20": lambda make: resnet(**RESNET20, make=make),
    "resnet50": lambda make: resnet((3, 4, 6, 3), width=2, bottleneck=True, make=make),
}


@pytest.mark.parametrize("name", sorted(DEEP))
def test_specs_of_deep_models_hold_in_float64(name):
    function, params, args = with_statistics(DEEP[name](jax.eval_shape))
    check_spec(unit_spec(function, params, *args, check=False), function, params, *args)


def test_the_groups_of_vgg16_and_of_resnet20():
    """A chain has one per layer; each of three stages its stream and an inner one per block."""
    widths = [width for stage in VGG16["stages"] for width in stage]
    assert sorted(sizes(spec_of("vgg16")).values()) == sorted([*widths, 4096, 4096])
    assert sorted(sizes(spec_of("resnet20")).values()) == sorted([16, 32, 64] * 4)


def widths_of_layers(case):
    """Output channels of all layers but the last one and the projections on shortcuts."""
    num_outputs = jax.eval_shape(case.apply, case.params, *case.args).shape[-1]
    return [
        leaf.shape[-1]
        for path, leaf in named_leaves(case.params)
        if path[-1] == "kernel" and "projection" not in path and leaf.shape[-1] != num_outputs
    ]


@pytest.mark.parametrize(
    ("name", "quoted", "by_layer", "of_function"),
    [
        ("mlp", 3498, 3499.6, 3499.6),
        ("vgg16", 35160, 35168.5, 35168.5),
        ("resnet50", 55109, 55138.9, 25638.3),
    ],
)
def test_the_numbers_of_the_literature(name, quoted, by_layer, of_function):
    """It counts every layer by itself, streams or not, and rounds each factorial down."""
    case = (LARGE | {"mlp": lambda make: mlp((784, 512, 512, 512, 10), make=make)})[name](
        make=jax.eval_shape
    )
    logarithms = [math.lgamma(n + 1) / math.log(10) for n in widths_of_layers(case)]
    assert sum(map(math.floor, logarithms)) == quoted
    assert sum(logarithms) == pytest.approx(by_layer, abs=0.06)
    function, params, args = with_statistics(case)
    spec = unit_spec(function, params, *args, check=False)
    assert num_symmetries(spec) == pytest.approx(of_function, abs=0.06)
