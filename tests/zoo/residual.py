"""ResNets (He et al. 2016) in Linen and in NNX, with the same names in both.

At their real size, ResNet-18 is `stages=(2, 2, 2, 2)` and ResNet-50 `(3, 4, 6, 3)` with
`bottleneck`, both with `width=64, image=224, num_classes=1000`; make those with `jax.eval_shape`.
ResNet-20, made for CIFAR-10, is `(3, 3, 3)` with `small_stem`, `width=16, num_classes=10`.
"""

import functools
from typing import NamedTuple

import jax
from flax import linen as nn
from flax import nnx

from tests.zoo.case import Case, Make, concrete, integers, linen_case, nnx_case, vectors


class Convolution(NamedTuple):
    """One convolution of a block; each is followed by a batch norm."""

    name: str
    in_features: int
    features: int
    size: int
    stride: int


class Block(NamedTuple):
    """Convolutions in series, and the one on the shortcut, if any."""

    name: str
    convolutions: tuple[Convolution, ...]
    projection: Convolution | None


def blocks_of(stages: tuple[int, ...], width: int, bottleneck: bool) -> tuple[Block, ...]:
    """The residual blocks in forward order; the first stage reads `width` channels."""
    blocks, entering = [], width
    for stage, num_blocks in enumerate(stages):
        inner = width * 2**stage
        leaving = 4 * inner if bottleneck else inner
        for index in range(num_blocks):
            stride = 2 if stage > 0 and index == 0 else 1
            if bottleneck:
                convolutions = (
                    Convolution("conv0", entering, inner, 1, 1),
                    Convolution("conv1", inner, inner, 3, stride),
                    Convolution("conv2", inner, leaving, 1, 1),
                )
            else:
                convolutions = (
                    Convolution("conv0", entering, inner, 3, stride),
                    Convolution("conv1", inner, leaving, 3, 1),
                )
            projection = Convolution("projection", entering, leaving, 1, stride)
            needed = stride > 1 or entering != leaving
            name = f"block{stage}_{index}"
            blocks.append(Block(name, convolutions, projection if needed else None))
            entering = leaving
    return tuple(blocks)


def resnet(
    stages=(2, 1),
    width=4,
    bottleneck=False,
    image=32,
    num_classes=3,
    small_stem=False,
    make: Make = concrete,
) -> Case:
    inputs, labels = vectors(make, 1, image, image, 3), integers(make, num_classes, 1)
    net = _LinenResNet(blocks_of(stages, width, bottleneck), width, num_classes, small_stem)
    return linen_case("ResNet", net, inputs, labels, make=make)


def nnx_resnet(
    stages=(2, 1), width=4, bottleneck=False, image=32, num_classes=3, make: Make = concrete
) -> Case:
    inputs, labels = vectors(make, 1, image, image, 3), integers(make, num_classes, 1)
    blocks = blocks_of(stages, width, bottleneck)
    return nnx_case(
        "ResNet in NNX",
        lambda: _NNXResNet(blocks, width, num_classes, nnx.Rngs(0)),
        inputs,
        labels,
        make=make,
    )


class _LinenBlock(nn.Module):
    block: Block

    @nn.compact
    def __call__(self, x):
        def normalized(convolution: Convolution, x: jax.Array) -> jax.Array:
            name, _, features, size, stride = convolution
            x = nn.Conv(features, (size, size), stride, use_bias=False, name=name)(x)
            return nn.BatchNorm(use_running_average=True, name=f"{name}_norm")(x)

        *first, last = self.block.convolutions
        y = x
        for convolution in first:
            y = nn.relu(normalized(convolution, y))
        if self.block.projection is not None:
            x = normalized(self.block.projection, x)
        return nn.relu(x + normalized(last, y))


class _LinenResNet(nn.Module):
    blocks: tuple[Block, ...]
    width: int
    num_classes: int
    small_stem: bool

    @nn.compact
    def __call__(self, x):
        size, stride = (3, 1) if self.small_stem else (7, 2)
        x = nn.Conv(self.width, (size, size), stride, use_bias=False, name="stem")(x)
        x = nn.relu(nn.BatchNorm(use_running_average=True, name="stem_norm")(x))
        if not self.small_stem:
            x = nn.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")
        for block in self.blocks:
            x = _LinenBlock(block, name=block.name)(x)
        return nn.Dense(self.num_classes, name="head")(x.mean((1, 2)))


class _NNXBlock(nnx.Module):
    def __init__(self, block: Block, rngs: nnx.Rngs):
        self.block = block
        for convolution in filter(None, (*block.convolutions, block.projection)):
            name, in_features, features, size, stride = convolution
            conv = nnx.Conv(in_features, features, (size, size), stride, use_bias=False, rngs=rngs)
            setattr(self, name, conv)
            norm = nnx.BatchNorm(features, use_running_average=True, rngs=rngs)
            setattr(self, f"{name}_norm", norm)

    def normalized(self, convolution: Convolution, x: jax.Array) -> jax.Array:
        x = getattr(self, convolution.name)(x)
        return getattr(self, f"{convolution.name}_norm")(x)

    def __call__(self, x):
        *first, last = self.block.convolutions
        y = x
        for convolution in first:
            y = nnx.relu(self.normalized(convolution, y))
        if self.block.projection is not None:
            x = self.normalized(self.block.projection, x)
        return nnx.relu(x + self.normalized(last, y))


class _NNXResNet(nnx.Module):
    def __init__(self, blocks: tuple[Block, ...], width: int, num_classes: int, rngs: nnx.Rngs):
        self.stem = nnx.Conv(3, width, (7, 7), 2, use_bias=False, rngs=rngs)
        self.stem_norm = nnx.BatchNorm(width, use_running_average=True, rngs=rngs)
        self.names = tuple(block.name for block in blocks)
        for block in blocks:
            setattr(self, block.name, _NNXBlock(block, rngs))
        self.head = nnx.Linear(blocks[-1].convolutions[-1].features, num_classes, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.stem_norm(self.stem(x)))
        x = nnx.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")
        blocks = (getattr(self, name) for name in self.names)
        x = functools.reduce(lambda x, block: block(x), blocks, x)
        return self.head(x.mean((1, 2)))
