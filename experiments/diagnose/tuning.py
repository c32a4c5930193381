"""Planted pathologies to choose thresholds by. Their counterparts are in `tuning_healthy`."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from experiments.diagnose import tuning_healthy as healthy
from experiments.diagnose.data import changed, images, num_characters
from experiments.diagnose.edits import edited, labels_but, mask_only, rank_limited, scaled
from experiments.diagnose.networks import CNN, MLP, Recurrent, ResNet, Transformer, TwoBranches
from experiments.diagnose.recipe import cross_entropy, linen, nnx_split
from experiments.diagnose.scenario import planted
from experiments.models import build
from pfn_optax.diagnosis import Cause

init = nn.initializers
digits = images("digits", form="flat")


def _poisson(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Poisson's negative log likelihood of one-hot counts, the rates by ReLU."""
    rates = nn.relu(logits)
    counts = jax.nn.one_hot(labels, logits.shape[-1])
    return (rates - counts * jnp.log(rates)).mean()


def _with_nan(inputs: np.ndarray) -> np.ndarray:
    inputs = inputs.copy()
    inputs[3, 14, 14, 0] = np.nan
    return inputs


def _with_norm_penalty(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Cross-entropy, and a little of the logits' L2 norm."""
    return cross_entropy(logits, labels) + 1e-3 * jnp.sqrt((logits**2).sum(axis=-1)).mean()


MLP_DEEP_PLAIN = MLP((64,) * 30, kernel_init=init.lecun_normal())

SCENARIOS = (
    # How large the weights are.
    planted(
        "mlp-init-too-small",
        "mlp",
        Cause.INIT_TOO_SMALL,
        healthy.MLP_TANH,
        why="Every kernel is N(0, .01^2), as old tutorials have it: at a width of 64 each layer "
        "divides the signal, and the gradient, by twelve.",
        network=linen(MLP((64,) * 5, activation=nn.tanh, kernel_init=init.normal(0.01))),
    ),
    planted(
        "mlp-init-too-large",
        "mlp",
        Cause.INIT_TOO_LARGE,
        healthy.MLP_RELU,
        why="Kernels are N(0, .6^2), three times He's deviation: each of seven layers triples the "
        "signal, and the first loss is in the thousands.",
        network=linen(MLP((64,) * 7, kernel_init=init.normal(0.6))),
    ),
    planted(
        "mlp-one-layer-too-small",
        "mlp",
        Cause.INIT_TOO_SMALL,
        replace(healthy.MLP_RELU, optimizer=optax.sgd(0.1)),
        layers=("Dense_1",),
        why="One kernel is a thousandth of He's: the loss stays at that of a guess for some fifty "
        "steps.",
        edit=scaled("Dense_1/kernel", 1e-3),
    ),
    planted(
        "cnn-one-layer-too-large",
        "cnn",
        Cause.INIT_TOO_LARGE,
        healthy.CNN_RELU,
        layers=("Conv_2",),
        why="One kernel is a hundred times He's, and nothing normalises after it.",
        edit=scaled("Conv_2/kernel", 100.0),
    ),
    planted(
        "mlp-deep-relu-without-norm",
        "mlp",
        (Cause.INIT_TOO_SMALL, Cause.VANISHING_GRADIENT),
        healthy.MLP_DEEP_NORM,
        why="Thirty ReLU layers at the default (LeCun's) deviation and no norm: the mean square is "
        "halved thirty times, signal and gradient alike, so it is told either way.",
        network=linen(MLP_DEEP_PLAIN),
    ),
    planted(
        "transformer-head-too-large",
        "transformer",
        Cause.INIT_TOO_LARGE,
        healthy.TRANSFORMER_TEXT,
        layers=("head",),
        why="The logits begin at a deviation of 60: the first loss is far above that of a guess.",
        network=linen(
            Transformer(
                depth=2,
                width=64,
                num_tokens=num_characters(),
                num_classes=num_characters(),
                head_init=init.normal(60 / 8),
            )
        ),
    ),
    planted(
        "resnet-without-norm",
        "resnet",
        (Cause.INIT_TOO_LARGE, Cause.EXPLODING_GRADIENT),
        healthy.RESNET_SMALL,
        why="Twelve residual blocks, He's deviation, no norm: each block doubles the mean square "
        "of the signal and, on the way back, of the gradient.",
        network=linen(ResNet((16,) * 12, (2, *(1,) * 11), norm="none")),
    ),
    # Signals that get lost between layers. People who tried it had two of these.
    planted(
        "cnn-norm-of-what-is-averaged",
        "cnn",
        Cause.LOST_SIGNAL,
        healthy.CNN_RELU,
        layers=("Conv_3", "head"),
        why="After each activation an instance norm, the last of them before the mean over the "
        "places: that mean is 0, whatever the image.",
        network=linen(CNN((16, 32, 32, 64), (2, 1, 2, 1), norm="instance", is_norm_last=True)),
    ),
    planted(
        "transformer-mean-of-features",
        "transformer",
        Cause.LOST_SIGNAL,
        healthy.TRANSFORMER_ROWS,
        layers=("head",),
        why="After the last layer norm the mean goes over the features and not over the places: it "
        "is 0.",
        network=linen(Transformer(depth=2, width=32, pooled_axis=2)),
    ),
    planted(
        "transformer-one-block-without-residual",
        "transformer",
        Cause.MISSING_RESIDUAL,
        healthy.TRANSFORMER_ROWS,
        layers=("block2",),
        why="In one of four blocks both residual connections are forgotten.",
        network=linen(Transformer(depth=4, width=32, head_init=init.zeros, forgetful_block=2)),
    ),
    # Units that do nothing.
    planted(
        "mlp-dead-relus",
        "mlp",
        Cause.DEAD_UNITS,
        healthy.MLP_RELU,
        layers=("Dense_1",),
        why="A bias of -20 keeps each unit of a layer at 0.",
        edit=edited("Dense_1/bias", lambda bias: bias - 20.0),
    ),
    planted(
        "cnn-dead-relus",
        "cnn",
        Cause.DEAD_UNITS,
        healthy.CNN_RELU,
        layers=("Conv_3",),
        why="60 of 64 channels of the last convolution have a bias of -30.",
        edit=edited("Conv_3/bias", lambda bias: bias.at[:60].add(-30.0)),
    ),
    planted(
        "mlp-saturated-tanh",
        "mlp",
        Cause.SATURATION,
        healthy.MLP_TANH,
        why="Biases are uniform in [-12, 12]: most units are at -1 or 1 whatever the input is.",
        network=linen(
            MLP(
                (64,) * 5,
                activation=nn.tanh,
                bias_init=lambda key, shape, dtype=jnp.float32: jax.random.uniform(
                    key, shape, dtype, -12, 12
                ),
            )
        ),
    ),
    planted(
        "rnn-saturated",
        "rnn",
        (Cause.SATURATION, Cause.INIT_TOO_LARGE),
        healthy.RNN_ROWS,
        layers=("cell0",),
        why="The input kernel is forty times its usual size, so the tanh is at its ends: both "
        "names say so.",
        edit=scaled("cell0/i/kernel", 40.0),
    ),
    planted(
        "mlp-constant-init",
        "mlp",
        Cause.SYMMETRIC_UNITS,
        healthy.MLP_RELU,
        why="All weights of hidden layers are .05: units are copies of each other, for ever.",
        network=linen(MLP((64, 64, 64), kernel_init=init.constant(0.05))),
    ),
    planted(
        "mlp-zero-init",
        "mlp",
        (Cause.SYMMETRIC_UNITS, Cause.INIT_TOO_SMALL),
        healthy.MLP_TANH,
        why="All kernels are 0: nothing passes either way, only the head's bias learns. Weights "
        "that are too small and units that are the same are both true of it.",
        network=linen(
            MLP((64,) * 5, activation=nn.tanh, kernel_init=init.zeros, head_init=init.zeros)
        ),
    ),
    # What the gradient does not reach.
    planted(
        "cnn-detached-branch",
        "cnn",
        Cause.NO_GRADIENT,
        healthy.BRANCHES,
        layers=("wide0", "wide1"),
        why="`stop_gradient` after one of two branches.",
        network=linen(TwoBranches(is_detached=True)),
    ),
    planted(
        "transformer-unused-module",
        "transformer",
        Cause.NO_GRADIENT,
        healthy.TRANSFORMER_ROWS,
        layers=("projector",),
        why="A dense layer is made and applied, and its output forgotten.",
        network=linen(Transformer(depth=4, width=32, has_unused_head=True)),
    ),
    planted(
        "cnn-frozen-layer",
        "cnn",
        Cause.FROZEN,
        healthy.CNN_BATCH_NORM,
        layers=("layers/0",),
        why="The optimizer's labels leave the first convolution out. On digits the others make up "
        "for it; it stays at random all the same.",
        optimizer=optax.multi_transform(
            {"train": optax.sgd(0.05, momentum=0.9), "freeze": optax.set_to_zero()},
            labels_but("'layers'][0]"),
        ),
    ),
    planted(
        "transformer-frozen-blocks",
        "transformer",
        Cause.FROZEN,
        healthy.TRANSFORMER_TEXT,
        layers=("block0", "block1"),
        why="A mask that sets to zero the updates of all blocks, left from fine-tuning.",
        optimizer=optax.chain(
            optax.adam(2e-3), optax.masked(optax.set_to_zero(), mask_only("block"))
        ),
    ),
    # How large the steps are.
    planted(
        "mlp-learning-rate-too-large",
        "mlp",
        Cause.LEARNING_RATE_TOO_LARGE,
        healthy.MLP_RELU,
        why="SGD at 5: the loss rises at once.",
        optimizer=optax.sgd(5.0),
    ),
    planted(
        "transformer-learning-rate-too-large",
        "transformer",
        Cause.LEARNING_RATE_TOO_LARGE,
        healthy.TRANSFORMER_TEXT,
        why="Adam at .5.",
        optimizer=optax.adam(0.5),
    ),
    planted(
        "resnet-learning-rate-too-small",
        "resnet",
        Cause.LEARNING_RATE_TOO_SMALL,
        healthy.RESNET_SMALL,
        why="SGD at 1e-7.",
        optimizer=optax.sgd(1e-7, momentum=0.9),
    ),
    planted(
        "lstm-learning-rate-too-small",
        "rnn",
        Cause.LEARNING_RATE_TOO_SMALL,
        healthy.LSTM_ROWS,
        why="Adam at 1e-8.",
        optimizer=optax.adam(1e-8),
    ),
    # Values that are not finite.
    planted(
        "mlp-log-of-zero",
        "mlp",
        Cause.NONFINITE,
        healthy.MLP_RELU,
        why="Poisson's likelihood of rates by ReLU: the logarithm of a rate of 0.",
        loss=_poisson,
    ),
    planted(
        "transformer-root-of-zero",
        "transformer",
        Cause.NONFINITE,
        healthy.TRANSFORMER_ROWS,
        why="The loss is finite; the gradient of the logits' norm at logits of 0 is not.",
        loss=_with_norm_penalty,
    ),
    planted(
        "cnn-bad-pixel",
        "cnn",
        Cause.NONFINITE,
        healthy.CNN_RELU,
        why="One pixel of one image is NaN. Where ReLU makes it 0, as on CPUs, the loss stays "
        "finite; the first kernel's gradient does not, and nothing is learnt.",
        data=changed(images("mnist", size=32), _with_nan),
    ),
    planted(
        "lstm-bad-parameter",
        "rnn",
        Cause.NONFINITE,
        healthy.LSTM_ROWS,
        layers=("cell0",),
        why="One weight is NaN, as from a checkpoint of a run that diverged.",
        edit=edited("cell0/hf/kernel", lambda kernel: kernel.at[2, 3].set(jnp.nan)),
    ),
    # Data.
    planted(
        "cnn-raw-pixels",
        "cnn",
        Cause.INPUT_SCALE,
        replace(healthy.CNN_RELU, optimizer=optax.sgd(0.1)),
        why="Pixels are from 0 to 255 where He's rule supposes unit variance: SGD diverges.",
        data=images("mnist", size=32, standard=False),
    ),
    planted(
        "mlp-offset-inputs",
        "mlp",
        Cause.INPUT_SCALE,
        healthy.MLP_TANH,
        why="Inputs have unit variance around 30: what examples share drowns what they differ in.",
        data=changed(digits, lambda inputs: inputs + 30.0),
    ),
    # What gets lost on the way.
    planted(
        "mlp-hourglass",
        "mlp",
        Cause.BOTTLENECK,
        healthy.MLP_TANH,
        layers=("Dense_2",),
        why="Ten classes through one unit, between layers of 64.",
        network=linen(
            MLP((64, 64, 1, 64, 64), activation=nn.tanh, kernel_init=init.lecun_normal())
        ),
    ),
    planted(
        "cnn-hourglass",
        "cnn",
        Cause.BOTTLENECK,
        healthy.CNN_BATCH_NORM,
        layers=("layers/4", "layers/5"),
        why="Two channels in the middle (of a map of 4 by 4), and no norm.",
        network=nnx_split(
            lambda rngs: build("hourglass", image_shape=(8, 8, 1), num_classes=10, rngs=rngs)
        ),
    ),
    planted(
        "mlp-rank-one-layer",
        "mlp",
        (Cause.RANK_COLLAPSE, Cause.BOTTLENECK),
        healthy.MLP_TANH,
        layers=("Dense_1",),
        why="A kernel of rank 1 at the usual norm: what comes after has one direction, which is a "
        "collapse of rank and a bottleneck.",
        edit=edited("Dense_1/kernel", rank_limited(1)),
    ),
    planted(
        "mlp-deep-he",
        "mlp",
        Cause.RANK_COLLAPSE,
        healthy.MLP_DEEP_NORM,
        why="Sixty ReLU layers by He's rule: the mean square is kept, and all examples come out "
        "the same.",
        network=linen(MLP((64,) * 60)),
    ),
    planted(
        "transformer-without-residuals",
        "transformer",
        Cause.RANK_COLLAPSE,
        healthy.TRANSFORMER_ROWS,
        why="Eight blocks of attention alone, no shortcut around any: each averages over the "
        "places (Dong et al. 2021).",
        network=linen(Transformer(depth=8, width=32, is_residual=False, has_mlp=False)),
    ),
    # Gradients over depth and time.
    planted(
        "mlp-deep-sigmoid",
        "mlp",
        (Cause.VANISHING_GRADIENT, Cause.INIT_TOO_SMALL),
        healthy.MLP_TANH,
        why="Eight sigmoid layers at LeCun's deviation: the slope is at most 1/4, which at these "
        "weights is too little; larger weights, or another activation, mend it.",
        network=linen(MLP((64,) * 8, activation=nn.sigmoid, kernel_init=init.lecun_normal())),
    ),
    planted(
        "mlp-deep-batch-norm",
        "mlp",
        Cause.EXPLODING_GRADIENT,
        healthy.MLP_DEEP_NORM,
        why="Fifty layers of batch norm and ReLU without shortcuts: on its way back the gradient "
        "grows by a factor of 1.2 a layer (Yang et al. 2019).",
        network=linen(MLP((64,) * 50, norm="batch")),
    ),
    planted(
        "rnn-exploding",
        "rnn",
        (Cause.EXPLODING_GRADIENT, Cause.INIT_TOO_LARGE),
        healthy.RNN_DELAYED,
        layers=("cell0",),
        why="A ReLU network whose recurrent kernel is orthogonal times 2.5, over twenty steps.",
        network=linen(
            Recurrent(64, "simple", activation=nn.relu, recurrent_init=init.orthogonal(2.5))
        ),
    ),
    planted(
        "rnn-vanishing",
        "rnn",
        (Cause.VANISHING_GRADIENT, Cause.INIT_TOO_SMALL),
        healthy.RNN_DELAYED,
        layers=("cell0",),
        why="The recurrent kernel is orthogonal times .2, and the answer is wanted twelve steps "
        "after the image: nothing is left of it.",
        network=linen(Recurrent(64, "simple", recurrent_init=init.orthogonal(0.2))),
    ),
    # Units and dtypes.
    planted(
        "cnn-loss-scale-too-small",
        "cnn",
        Cause.LOSS_SCALE,
        replace(healthy.CNN_RELU, optimizer=optax.sgd(0.1)),
        why="The loss is multiplied by 1e-8.",
        loss=lambda logits, labels: 1e-8 * cross_entropy(logits, labels),
    ),
    planted(
        "mlp-loss-scale-too-large",
        "mlp",
        Cause.LOSS_SCALE,
        healthy.MLP_TANH,
        why="The loss is multiplied by 1e6.",
        loss=lambda logits, labels: 1e6 * cross_entropy(logits, labels),
    ),
    planted(
        "mlp-lost-updates",
        "mlp",
        Cause.LOW_PRECISION,
        replace(healthy.MLP_RELU, optimizer=optax.adam(1e-4)),
        why="Parameters in bfloat16, which Adam's steps of 1e-4 are below the spacing of.",
        network=linen(MLP((64, 64, 64), dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)),
    ),
    planted(
        "cnn-float16-underflow",
        "cnn",
        Cause.LOW_PRECISION,
        replace(healthy.CNN_RELU, loss=lambda logits, labels: 1e-4 * cross_entropy(logits, labels)),
        why="Computed in float16 with a loss weight of 1e-4: gradients of activations are below "
        "6e-8 and become 0. In float32 Adam makes up for the weight.",
        network=linen(CNN((16, 32, 32, 64), (2, 1, 2, 1), dtype=jnp.float16)),
        loss=lambda logits, labels: 1e-4 * cross_entropy(logits, labels).astype(jnp.float32),
    ),
)
