"""Small models of every common kind, for whatever must hold of any model.

Each builder takes its sizes and `make`, which makes the arrays: `concrete` (the default), or
`jax.eval_shape` for shapes only.
"""

import functools
from collections.abc import Callable

from tests.zoo.attention import nnx_transformer, transformer
from tests.zoo.branches import densenet, inception, unet
from tests.zoo.case import Case, concrete
from tests.zoo.chains import (
    autoencoder,
    cnn,
    low_rank_adapted,
    mlp,
    plain_mlp,
    vgg,
    weight_normalized,
)
from tests.zoo.loops import elman, gru, lstm, scanned_layers
from tests.zoo.residual import nnx_resnet, resnet

IMAGENET = {"width": 64, "image": 224, "num_classes": 1000}
RESNET20 = {"stages": (3, 3, 3), "width": 16, "num_classes": 10, "small_stem": True}
VGG16 = {
    "stages": ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)),
    "dense": (4096, 4096, 1000),
    "image": 224,
}

# Builders at their small default size.
SMALL: dict[str, Callable[..., Case]] = {
    "mlp": mlp,
    "plain_mlp": plain_mlp,
    "autoencoder": autoencoder,
    "weight_normalized": weight_normalized,
    "low_rank_adapted": low_rank_adapted,
    "cnn": cnn,
    "vgg": vgg,
    "densenet": densenet,
    "unet": unet,
    "unet_resized": functools.partial(unet, learned=False),
    "inception": inception,
    "resnet": resnet,
    "resnet_bottleneck": functools.partial(resnet, bottleneck=True),
    "nnx_resnet": nnx_resnet,
    "nnx_resnet_bottleneck": functools.partial(nnx_resnet, bottleneck=True),
    "transformer": transformer,
    "nnx_transformer": nnx_transformer,
    "gru": gru,
    "lstm": lstm,
    "elman": elman,
    "scanned_layers": scanned_layers,
}

# Builders at the size of the papers, to be made with `jax.eval_shape`.
LARGE: dict[str, Callable[..., Case]] = {
    "vgg16": functools.partial(vgg, **VGG16),
    "resnet20": functools.partial(resnet, **RESNET20),
    "resnet18": functools.partial(resnet, stages=(2, 2, 2, 2), **IMAGENET),
    "resnet50": functools.partial(resnet, stages=(3, 4, 6, 3), bottleneck=True, **IMAGENET),
    "nnx_resnet18": functools.partial(nnx_resnet, stages=(2, 2, 2, 2), **IMAGENET),
    "nnx_resnet50": functools.partial(nnx_resnet, stages=(3, 4, 6, 3), bottleneck=True, **IMAGENET),
}

__all__ = [
    "LARGE",
    "SMALL",
    "Case",
    "autoencoder",
    "cnn",
    "concrete",
    "densenet",
    "elman",
    "gru",
    "inception",
    "low_rank_adapted",
    "lstm",
    "mlp",
    "nnx_resnet",
    "nnx_transformer",
    "plain_mlp",
    "resnet",
    "scanned_layers",
    "transformer",
    "unet",
    "vgg",
    "weight_normalized",
]
