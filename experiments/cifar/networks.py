"""The networks to choose from; yours belongs here."""

from collections.abc import Callable
from typing import Literal

from flax import nnx

from experiments.data import Dataset
from experiments.resnet import resnet

ModelName = Literal["small", "resnet18"]

_SHAPES = {
    "small": {"stages": (1, 1, 1), "stem_stride": 2},
    "resnet18": {"stages": (2, 2, 2, 2), "stem_stride": 1},
}


def builder(
    model: ModelName, dataset: Dataset, *, width: int
) -> Callable[[nnx.Rngs], nnx.Sequential]:
    """How to build a network for a data set.

    Args:
        model: `"small"`: one residual block a stage, after a stem that halves the image, 3 million
            multiplications at 16 channels; or `"resnet18"`, 556 million at 64.
        dataset: Gives the channels of an image and the number of classes.
        width: Channels of the first stage.

    Returns:
        A function from where the initial parameters come from to a module, from
        `f32[batch, height, width, channels]` to logits.
    """

    def build(rngs: nnx.Rngs) -> nnx.Sequential:
        return resnet(
            **_SHAPES[model],
            width=width,
            channels=dataset.image_shape[-1],
            num_classes=dataset.num_classes,
            rngs=rngs,
        )

    return build
