"""Healthy networks to choose thresholds by: they train, and there is nothing to be found."""

import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import nnx

from experiments.diagnose.data import images, num_characters, text
from experiments.diagnose.networks import CNN, MLP, Recurrent, ResNet, Transformer, TwoBranches
from experiments.diagnose.recipe import Recipe, linen, nnx_module, nnx_split
from experiments.diagnose.scenario import Scenario, after_training
from experiments.models import build

lecun = nn.initializers.lecun_normal()

MLP_RELU = Recipe(
    data=images("digits", form="flat"),
    network=linen(MLP((64, 64, 64))),
    optimizer=optax.adam(1e-3),
)
MLP_TANH = Recipe(
    data=images("digits", form="flat"),
    network=linen(MLP((64,) * 5, activation=nn.tanh, kernel_init=lecun)),
    optimizer=optax.sgd(0.1),
)
MLP_DEEP_NORM = Recipe(
    data=images("digits", form="flat"),
    network=linen(MLP((64,) * 12, activation=nn.gelu, norm="layer")),
    optimizer=optax.adam(1e-3),
)
MLP_NNX = Recipe(
    data=images("mnist", form="flat"),
    network=nnx_module(
        lambda rngs: nnx.Sequential(
            nnx.Linear(784, 128, kernel_init=nnx.initializers.he_normal(), rngs=rngs),
            nnx.relu,
            nnx.Linear(128, 64, kernel_init=nnx.initializers.he_normal(), rngs=rngs),
            nnx.relu,
            nnx.Linear(64, 10, rngs=rngs),
        )
    ),
    optimizer=optax.sgd(0.05, momentum=0.9),
)
CNN_RELU = Recipe(
    data=images("mnist", size=32),
    network=linen(CNN((16, 32, 32, 64), (2, 1, 2, 1))),
    optimizer=optax.adam(1e-3),
)
CNN_BATCH_NORM = Recipe(
    data=images("digits"),
    network=nnx_split(
        lambda rngs: build("cnn_bn", image_shape=(8, 8, 1), num_classes=10, rngs=rngs)
    ),
    optimizer=optax.sgd(0.05, momentum=0.9),
)
BRANCHES = Recipe(
    data=images("digits"),
    network=linen(TwoBranches()),
    optimizer=optax.adam(3e-3),
    has_aux=True,
)
RESNET_SMALL = Recipe(
    data=images("digits"),
    network=linen(ResNet((16, 16, 32, 32), (1, 1, 2, 1))),
    optimizer=optax.sgd(0.05, momentum=0.9),
)
RESNET_20 = Recipe(
    data=images("cifar10", size=16),
    network=nnx_split(
        lambda rngs: build("resnet", image_shape=(32, 32, 3), num_classes=10, rngs=rngs)
    ),
    optimizer=optax.sgd(0.05, momentum=0.9),
)
RESNET_ZERO_SCALE = Recipe(
    data=images("cifar10", size=16),
    network=linen(ResNet((16, 16, 32), (2, 1, 2), last_scale_init=nn.initializers.zeros)),
    optimizer=optax.sgd(
        optax.warmup_cosine_decay_schedule(0.0, 0.1, warmup_steps=20, decay_steps=1000),
        momentum=0.9,
    ),
)
TRANSFORMER_ROWS = Recipe(
    data=images("digits", form="rows"),
    network=linen(Transformer(depth=4, width=32, head_init=nn.initializers.zeros)),
    optimizer=optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(optax.warmup_cosine_decay_schedule(0.0, 2e-3, 20, 1000), weight_decay=0.01),
    ),
)
TRANSFORMER_TEXT = Recipe(
    data=text(),
    network=linen(
        Transformer(depth=2, width=64, num_tokens=num_characters(), num_classes=num_characters())
    ),
    optimizer=optax.adam(2e-3),
    hides_model=True,
)
LSTM_ROWS = Recipe(
    data=images("mnist", form="rows", size=32),
    network=linen(Recurrent(48, "lstm")),
    optimizer=optax.adam(3e-3),
)
GRU_TEXT = Recipe(
    data=text(),
    network=linen(Recurrent(64, "gru", num_tokens=num_characters(), num_classes=num_characters())),
    optimizer=optax.adam(3e-3),
)
RNN_ROWS = Recipe(
    data=images("digits", form="rows"),
    network=linen(Recurrent(48, "simple")),
    optimizer=optax.adam(2e-3),
)
RNN_DELAYED = Recipe(
    data=images("digits", form="rows", delay=12),
    network=linen(Recurrent(64, "simple")),
    optimizer=optax.adam(1e-3),
)
MLP_BFLOAT16 = Recipe(
    data=images("digits", form="flat"),
    network=linen(MLP((96, 96), dtype=jnp.bfloat16)),
    optimizer=optax.adam(1e-3),
)

SCENARIOS = (
    Scenario(name="mlp-relu", family="mlp", recipe=MLP_RELU),
    Scenario(name="mlp-tanh", family="mlp", recipe=MLP_TANH),
    Scenario(
        name="mlp-deep-norm",
        family="mlp",
        recipe=MLP_DEEP_NORM,
        why="Twelve layers: depth alone is no illness where there is a norm.",
    ),
    Scenario(
        name="mlp-nnx",
        family="mlp",
        recipe=MLP_NNX,
        why="An `nnx.Module` as it is.",
    ),
    Scenario(
        name="mlp-bfloat16",
        family="mlp",
        recipe=MLP_BFLOAT16,
        why="Computes in bfloat16 and keeps its parameters in float32: usual, and harmless.",
    ),
    Scenario(name="cnn-relu", family="cnn", recipe=CNN_RELU),
    Scenario(name="cnn-batch-norm", family="cnn", recipe=CNN_BATCH_NORM),
    Scenario(name="cnn-branches", family="cnn", recipe=BRANCHES, why="A graph that is no chain."),
    Scenario(name="resnet-small", family="resnet", recipe=RESNET_SMALL),
    Scenario(name="resnet-20", family="resnet", recipe=RESNET_20),
    Scenario(
        name="resnet-zero-scale",
        family="resnet",
        recipe=RESNET_ZERO_SCALE,
        why="The last scale of each block begins at 0 (Goyal et al. 2017), so the convolutions "
        "before it have no gradient at the first step, and the warm-up's first rate is 0.",
    ),
    Scenario(
        name="transformer-rows",
        family="transformer",
        recipe=TRANSFORMER_ROWS,
        why="The head begins at 0, as in vision transformers, so only it has a gradient at the "
        "first step; the warm-up's first rate is 0.",
    ),
    Scenario(
        name="transformer-text",
        family="transformer",
        recipe=TRANSFORMER_TEXT,
        why="Integer inputs, and rows of the embedding that the batch has no use for.",
    ),
    Scenario(name="lstm-rows", family="rnn", recipe=LSTM_ROWS),
    Scenario(name="gru-text", family="rnn", recipe=GRU_TEXT),
    Scenario(name="rnn-rows", family="rnn", recipe=RNN_ROWS),
    Scenario(name="mlp-relu-trained", family="mlp", recipe=after_training(MLP_RELU)),
    Scenario(name="cnn-batch-norm-trained", family="cnn", recipe=after_training(CNN_BATCH_NORM)),
    Scenario(name="resnet-small-trained", family="resnet", recipe=after_training(RESNET_SMALL)),
    Scenario(
        name="transformer-rows-trained",
        family="transformer",
        recipe=after_training(TRANSFORMER_ROWS),
    ),
    Scenario(name="lstm-rows-trained", family="rnn", recipe=after_training(LSTM_ROWS)),
)
