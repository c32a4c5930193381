"""Planted pathologies to judge by: no threshold was chosen with them.

Their counterparts are in `held_out_healthy`.
"""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from experiments.diagnose import held_out_healthy as healthy
from experiments.diagnose.data import changed, images, num_characters
from experiments.diagnose.edits import (
    chained,
    edited,
    labels_but,
    mask_only,
    rank_limited,
    scaled,
)
from experiments.diagnose.networks import CNN, MLP, Recurrent, ResNet, Transformer
from experiments.diagnose.recipe import Network, cross_entropy, linen
from experiments.diagnose.scenario import planted
from pfn_optax.diagnosis import Cause

init = nn.initializers


def _stopped(network: Network, path: str) -> Network:
    """The network with `stop_gradient` on the parameters under a name."""

    def build(seed: int, inputs: jax.Array) -> Any:
        params, apply = network(seed, inputs)
        stop = edited(path, jax.lax.stop_gradient)
        return params, lambda params, inputs: apply(stop(params), inputs)

    return build


def _with_spare(network: Network, name: str) -> Network:
    """The network with parameters of a head that nothing uses any more."""

    def build(seed: int, inputs: jax.Array) -> Any:
        params, apply = network(seed, inputs)
        kernel = init.lecun_normal()(jax.random.key(seed), (32, 10))
        spare = {"kernel": kernel, "bias": jnp.zeros(10)}
        return {**params, name: spare}, lambda params, inputs: apply(
            {key: value for key, value in params.items() if key != name}, inputs
        )

    return build


def _of_marked(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Cross-entropy over the places whose label is -1; there are none."""
    each = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0))
    is_marked = labels == -1
    return (each * is_marked).sum() / is_marked.sum()


def _angular(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Cross-entropy of logits divided by their norm, which is 0 of a head that begins at 0."""
    norm = jnp.sqrt((logits**2).sum(axis=-1, keepdims=True))
    return cross_entropy(10 * logits / norm, labels)


def _pixel_by_pixel(inputs: np.ndarray) -> np.ndarray:
    """Each pixel standardised by its own deviation in the batch; some are the same in all."""
    with np.errstate(all="ignore"):
        return (inputs - inputs.mean(axis=0)) / inputs.std(axis=0)


def _wide_bias(key: jax.Array, shape: Any, dtype: Any = jnp.float32) -> jax.Array:
    return 15 * jax.random.normal(key, shape, dtype)


SCENARIOS = (
    # How large the weights are.
    planted(
        "held-cnn-init-too-small",
        "cnn",
        Cause.INIT_TOO_SMALL,
        replace(healthy.CNN_TANH, optimizer=optax.sgd(0.1)),
        why="Kernels are N(0, .005^2) in five layers.",
        network=linen(
            CNN(
                (12, 24, 24, 36, 36),
                (1, 2, 1, 1, 1),
                activation=nn.tanh,
                kernel_init=init.normal(0.005),
            )
        ),
    ),
    planted(
        "held-mlp-init-too-large",
        "mlp",
        Cause.INIT_TOO_LARGE,
        healthy.MLP_SILU,
        why="Six SiLU layers at five times He's deviation.",
        network=linen(
            MLP(
                (96,) * 6,
                activation=nn.silu,
                kernel_init=init.variance_scaling(50.0, "fan_in", "normal"),
            )
        ),
    ),
    planted(
        "held-cnn-one-layer-too-small",
        "cnn",
        Cause.INIT_TOO_SMALL,
        replace(healthy.CNN_NNX, optimizer=optax.sgd(0.1, momentum=0.9)),
        layers=("layers/4",),
        why="One kernel is .0003 of He's.",
        edit=scaled("layers/4/conv/kernel", 3e-4),
    ),
    planted(
        "held-mlp-one-layer-too-large",
        "mlp",
        Cause.INIT_TOO_LARGE,
        healthy.MLP_SILU,
        layers=("Dense_0",),
        why="The first kernel is sixty times He's.",
        edit=scaled("Dense_0/kernel", 60.0),
    ),
    planted(
        "held-cnn-deep-relu-without-norm",
        "cnn",
        (Cause.INIT_TOO_SMALL, Cause.VANISHING_GRADIENT),
        healthy.CNN_DEEP_NORM,
        why="Twenty-two convolutions and ReLU at LeCun's deviation, no norm.",
        network=linen(CNN((16,) * 22, (2, *(1,) * 21), kernel_init=init.lecun_normal())),
    ),
    planted(
        "held-lstm-head-too-large",
        "rnn",
        Cause.INIT_TOO_LARGE,
        healthy.LSTM_TEXT,
        layers=("head",),
        why="The head's kernel is three hundred times its usual size.",
        edit=scaled("head/kernel", 300.0),
    ),
    planted(
        "held-mlp-residual-without-norm",
        "mlp",
        (Cause.INIT_TOO_LARGE, Cause.EXPLODING_GRADIENT),
        healthy.MLP_RESIDUAL,
        why="Twenty-four residual ReLU layers at He's deviation, no norm: each doubles the mean "
        "square, both ways.",
        network=linen(MLP((48,) * 24, is_residual=True)),
    ),
    # Units that do nothing.
    planted(
        "held-cnn-dead-relus",
        "cnn",
        Cause.DEAD_UNITS,
        healthy.CNN_NNX,
        layers=("layers/6",),
        why="All channels of one convolution have a bias of -40.",
        edit=edited("layers/6/conv/bias", lambda bias: bias - 40.0),
    ),
    planted(
        "held-transformer-dead-mlp",
        "transformer",
        Cause.DEAD_UNITS,
        healthy.TRANSFORMER_TEXT,
        layers=("block1",),
        why="The hidden units of one block's MLP have a bias of -50 before their ReLU: the block's "
        "MLP never learns, the rest does.",
        edit=edited("block1/mlp_in/bias", lambda bias: bias - 50.0),
    ),
    planted(
        "held-cnn-saturated-tanh",
        "cnn",
        Cause.SATURATION,
        healthy.CNN_TANH,
        why="Biases are N(0, 15^2).",
        network=linen(
            CNN(
                (12, 24, 36),
                (1, 2, 1),
                activation=nn.tanh,
                kernel_init=init.xavier_normal(),
                bias_init=_wide_bias,
            )
        ),
    ),
    planted(
        "held-mlp-saturated-sigmoid",
        "mlp",
        (Cause.SATURATION, Cause.INIT_TOO_LARGE),
        healthy.MLP_SIGMOID,
        why="Three sigmoid layers with kernels of N(0, 8^2).",
        network=linen(MLP((100,) * 3, activation=nn.sigmoid, kernel_init=init.normal(8.0))),
    ),
    planted(
        "held-gru-closed-gates",
        "rnn",
        (Cause.SATURATION, Cause.VANISHING_GRADIENT),
        healthy.GRU_ROWS,
        layers=("cell0",),
        why="The update gate's bias is 25, so it is at 1 and the state stays what it was, 0: a "
        "gate at its end, through which no gradient comes.",
        edit=edited("cell0/iz/bias", lambda bias: bias + 25.0),
    ),
    planted(
        "held-cnn-constant-init",
        "cnn",
        Cause.SYMMETRIC_UNITS,
        healthy.CNN_TANH,
        why="All weights of the convolutions are .03.",
        network=linen(
            CNN((12, 24, 36), (1, 2, 1), activation=nn.tanh, kernel_init=init.constant(0.03))
        ),
    ),
    planted(
        "held-rnn-constant-init",
        "rnn",
        Cause.SYMMETRIC_UNITS,
        healthy.RNN_IDENTITY,
        layers=("cell0",),
        why="All weights of the cell are the same, and so are those of the head for each class: it "
        "has one unit, many times, for ever.",
        edit=chained(
            edited("cell0/i/kernel", lambda kernel: jnp.full_like(kernel, 0.05)),
            edited("cell0/h/kernel", lambda kernel: jnp.full_like(kernel, 1 / 56)),
            edited("head/kernel", lambda kernel: jnp.broadcast_to(kernel[:1], kernel.shape)),
        ),
    ),
    planted(
        "held-cnn-zero-init",
        "cnn",
        (Cause.SYMMETRIC_UNITS, Cause.INIT_TOO_SMALL),
        healthy.CNN_NNX,
        why="All kernels are 0: units are the same, and nothing passes.",
        edit=edited("kernel", jnp.zeros_like),
    ),
    # What lies between the layers.
    planted(
        "held-gru-mean-of-centred-states",
        "rnn",
        Cause.LOST_SIGNAL,
        healthy.GRU_ROWS,
        layers=("head",),
        why="The states are centred over the steps, and then their mean over the steps is read.",
        network=linen(Recurrent(40, "gru", reads_centred_mean=True)),
    ),
    planted(
        "held-resnet-one-block-without-shortcut",
        "resnet",
        Cause.MISSING_RESIDUAL,
        healthy.RESNET_GROUP_NORM,
        layers=("block3",),
        why="One block of six has no shortcut.",
        network=linen(ResNet((12,) * 6, (2, *(1,) * 5), norm="group", forgetful_block=3)),
    ),
    # What the gradient does not reach.
    planted(
        "held-transformer-detached-block",
        "transformer",
        Cause.NO_GRADIENT,
        healthy.TRANSFORMER_ROWS,
        layers=("block0",),
        why="`stop_gradient` on the parameters of the first block.",
        network=_stopped(linen(Transformer(depth=2, width=48, heads=2)), "block0"),
    ),
    planted(
        "held-resnet-spare-head",
        "resnet",
        Cause.NO_GRADIENT,
        healthy.RESNET_ZERO_SCALE,
        layers=("auxiliary",),
        why="The parameters of an auxiliary head whose loss was taken out.",
        network=_with_spare(linen(ResNet((8, 16, 16), (1, 2, 1))), "auxiliary"),
    ),
    planted(
        "held-lstm-frozen-cell",
        "rnn",
        Cause.FROZEN,
        healthy.LSTM_TEXT,
        layers=("cell1",),
        why="The second layer's updates are set to zero by their label.",
        optimizer=optax.multi_transform(
            {"train": optax.adam(5e-3), "freeze": optax.set_to_zero()}, labels_but("cell1")
        ),
    ),
    planted(
        "held-resnet-frozen-stem",
        "resnet",
        Cause.FROZEN,
        healthy.RESNET_GROUP_NORM,
        layers=("stem", "block0"),
        why="Masks leave the first layers as they are.",
        optimizer=optax.chain(
            optax.sgd(0.03, momentum=0.9),
            optax.masked(optax.set_to_zero(), mask_only("stem")),
            optax.masked(optax.set_to_zero(), mask_only("block0")),
        ),
    ),
    # How large the steps are.
    planted(
        "held-cnn-learning-rate-too-large",
        "cnn",
        Cause.LEARNING_RATE_TOO_LARGE,
        healthy.CNN_NNX,
        why="SGD with momentum at 3.",
        optimizer=optax.sgd(3.0, momentum=0.9),
    ),
    planted(
        "held-gru-learning-rate-too-large",
        "rnn",
        Cause.LEARNING_RATE_TOO_LARGE,
        healthy.GRU_ROWS,
        why="Adam at 1.",
        optimizer=optax.adam(1.0),
    ),
    planted(
        "held-transformer-learning-rate-too-small",
        "transformer",
        Cause.LEARNING_RATE_TOO_SMALL,
        healthy.TRANSFORMER_ROWS,
        why="AdamW at 1e-9.",
        optimizer=optax.adamw(1e-9),
    ),
    planted(
        "held-mlp-learning-rate-too-small",
        "mlp",
        Cause.LEARNING_RATE_TOO_SMALL,
        healthy.MLP_SELU,
        why="SGD at 3e-7.",
        optimizer=optax.sgd(3e-7),
    ),
    # Values that are not finite.
    planted(
        "held-lstm-empty-mask",
        "rnn",
        Cause.NONFINITE,
        healthy.LSTM_TEXT,
        why="The mean over marked places, of which the batch has none: 0 / 0.",
        loss=_of_marked,
    ),
    planted(
        "held-mlp-norm-of-zero",
        "mlp",
        Cause.NONFINITE,
        healthy.MLP_SILU,
        why="Logits of a head that begins at 0, divided by their norm.",
        network=linen(MLP((96, 80, 72), activation=nn.silu, head_init=init.zeros)),
        loss=_angular,
    ),
    planted(
        "held-gru-constant-pixels",
        "rnn",
        Cause.NONFINITE,
        healthy.GRU_ROWS,
        why="Pixels are standardised one by one, and some are the same in all images: 0 / 0.",
        data=changed(images("digits", form="rows", size=48), _pixel_by_pixel),
    ),
    planted(
        "held-resnet-bad-parameter",
        "resnet",
        Cause.NONFINITE,
        healthy.RESNET_GROUP_NORM,
        layers=("block1",),
        why="One weight is infinite.",
        edit=edited("block1/conv2/kernel", lambda kernel: kernel.at[0, 0, 0, 0].set(jnp.inf)),
    ),
    # Data.
    planted(
        "held-gru-raw-pixels",
        "rnn",
        Cause.INPUT_SCALE,
        healthy.GRU_ROWS,
        why="Pixels from 0 to 255 drive the gates to their ends.",
        data=images("digits", form="rows", size=48, standard=False),
    ),
    planted(
        "held-mlp-tiny-inputs",
        "mlp",
        Cause.INPUT_SCALE,
        healthy.MLP_SELU,
        why="Inputs in the wrong unit, 1e-5 of the usual.",
        data=changed(images("mnist", form="flat"), lambda inputs: inputs * 1e-5),
    ),
    planted(
        "held-cnn-offset-inputs",
        "cnn",
        Cause.INPUT_SCALE,
        replace(healthy.CNN_NNX, optimizer=optax.sgd(0.05, momentum=0.9)),
        why="Unit variance around -40.",
        data=changed(images("digits", size=48), lambda inputs: inputs - 40.0),
    ),
    # What gets lost on the way.
    planted(
        "held-mlp-hourglass",
        "mlp",
        Cause.BOTTLENECK,
        healthy.MLP_SILU,
        layers=("Dense_1",),
        why="Ten classes through one unit, and one layer after it.",
        network=linen(MLP((96, 1, 80), activation=nn.silu)),
    ),
    planted(
        "held-cnn-hourglass",
        "cnn",
        Cause.BOTTLENECK,
        healthy.CNN_TANH,
        layers=("Conv_2",),
        why="One channel on a map of 1 by 1, so one number, between layers of 24.",
        network=linen(
            CNN(
                (12, 24, 1, 24, 36),
                (2, 2, 2, 1, 1),
                activation=nn.tanh,
                kernel_init=init.xavier_normal(),
            )
        ),
    ),
    planted(
        "held-mlp-low-rank-layer",
        "mlp",
        (Cause.RANK_COLLAPSE, Cause.BOTTLENECK),
        healthy.MLP_SELU,
        layers=("Dense_2",),
        why="A kernel of rank 1 at its usual norm.",
        edit=edited("Dense_2/kernel", rank_limited(1)),
    ),
    planted(
        "held-cnn-deep-he",
        "cnn",
        Cause.RANK_COLLAPSE,
        healthy.CNN_DEEP_NORM,
        why="Forty convolutions by He's rule without a norm.",
        network=linen(CNN((16,) * 40, (2, *(1,) * 39))),
    ),
    planted(
        "held-transformer-without-residuals",
        "transformer",
        Cause.RANK_COLLAPSE,
        healthy.TRANSFORMER_TEXT,
        why="Ten blocks of attention alone, on text.",
        network=linen(
            Transformer(
                depth=10,
                width=48,
                num_tokens=num_characters(),
                num_classes=num_characters(),
                is_residual=False,
                has_mlp=False,
            )
        ),
    ),
    # Gradients over depth and time.
    planted(
        "held-cnn-deep-sigmoid",
        "cnn",
        (Cause.VANISHING_GRADIENT, Cause.INIT_TOO_SMALL),
        healthy.CNN_TANH,
        why="Seven sigmoid convolutions at Glorot's deviation.",
        network=linen(
            CNN(
                (16,) * 7,
                (2, *(1,) * 6),
                activation=nn.sigmoid,
                kernel_init=init.xavier_normal(),
            )
        ),
    ),
    planted(
        "held-mlp-deep-batch-norm",
        "mlp",
        Cause.EXPLODING_GRADIENT,
        healthy.MLP_RESIDUAL,
        why="Forty layers of batch norm and ReLU of width 96, no shortcuts.",
        network=linen(MLP((96,) * 40, norm="batch")),
    ),
    planted(
        "held-rnn-exploding",
        "rnn",
        (Cause.EXPLODING_GRADIENT, Cause.INIT_TOO_LARGE),
        healthy.RNN_LATE,
        layers=("cell0",),
        why="A leaky ReLU network with recurrent weights N(0, 3^2 / n) over 28 steps.",
        network=linen(
            Recurrent(
                96,
                "simple",
                activation=nn.leaky_relu,
                recurrent_init=init.variance_scaling(9.0, "fan_in", "normal"),
            )
        ),
    ),
    planted(
        "held-rnn-vanishing",
        "rnn",
        (Cause.VANISHING_GRADIENT, Cause.INIT_TOO_SMALL),
        healthy.RNN_LATE,
        layers=("cell0",),
        why="Recurrent weights N(0, .02^2), the answer wanted twenty steps after the image.",
        network=linen(Recurrent(96, "simple", recurrent_init=init.normal(0.02))),
    ),
    # Units and dtypes.
    planted(
        "held-transformer-loss-scale-too-small",
        "transformer",
        Cause.LOSS_SCALE,
        healthy.TRANSFORMER_ROWS,
        why="The loss is multiplied by 1e-12, which is below Adam's epsilon.",
        loss=lambda logits, labels: 1e-12 * cross_entropy(logits, labels),
    ),
    planted(
        "held-mlp-loss-scale-too-large",
        "mlp",
        Cause.LOSS_SCALE,
        healthy.MLP_SELU,
        why="The loss is multiplied by 1e5.",
        loss=lambda logits, labels: 1e5 * cross_entropy(logits, labels),
    ),
    planted(
        "held-transformer-lost-updates",
        "transformer",
        Cause.LOW_PRECISION,
        replace(healthy.TRANSFORMER_ROWS, optimizer=optax.adam(2e-4)),
        why="Parameters cast to bfloat16, steps of 2e-4.",
        edit=lambda params: jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params),
    ),
    planted(
        "held-mlp-float16-underflow",
        "mlp",
        Cause.LOW_PRECISION,
        replace(healthy.MLP_SILU, loss=lambda logits, labels: 1e-5 * cross_entropy(logits, labels)),
        why="Computed in float16 with a loss weight of 1e-5.",
        network=linen(MLP((96, 80, 72), activation=nn.silu, dtype=jnp.float16)),
        loss=lambda logits, labels: 1e-5 * cross_entropy(logits, labels).astype(jnp.float32),
    ),
)
