"""Healthy networks to judge by: no threshold was chosen with them."""

import jax.numpy as jnp
import optax
from flax import linen as nn

from experiments.diagnose.data import images, num_characters, text
from experiments.diagnose.networks import CNN, MLP, Recurrent, ResNet, Transformer
from experiments.diagnose.recipe import Recipe, linen, nnx_split
from experiments.diagnose.scenario import Scenario, after_training
from experiments.models import build

init = nn.initializers

MLP_SELU = Recipe(
    data=images("mnist", form="flat"),
    network=linen(MLP((128,) * 4, activation=nn.selu, kernel_init=init.lecun_normal())),
    optimizer=optax.sgd(0.03),
)
MLP_SILU = Recipe(
    data=images("digits", form="flat", size=48),
    network=linen(MLP((96, 80, 72), activation=nn.silu)),
    optimizer=optax.chain(optax.clip_by_global_norm(5.0), optax.adamw(2e-3)),
)
MLP_SIGMOID = Recipe(
    data=images("digits", form="flat"),
    network=linen(MLP((100,), activation=nn.sigmoid, kernel_init=init.glorot_uniform())),
    optimizer=optax.adam(3e-3),
)
MLP_RESIDUAL = Recipe(
    data=images("digits", form="flat"),
    network=linen(MLP((48,) * 16, norm="layer", is_residual=True, head_init=init.normal(0.01))),
    optimizer=optax.adam(1e-3),
    has_aux=True,
)
CNN_GROUP_NORM = Recipe(
    data=images("cifar10", size=16),
    network=linen(CNN((16, 24, 32, 48), (2, 1, 2, 1), activation=nn.leaky_relu, norm="group")),
    optimizer=optax.adamw(optax.cosine_decay_schedule(2e-3, 2000)),
)
CNN_NNX = Recipe(
    data=images("digits", size=48),
    network=nnx_split(
        lambda rngs: build("cnn_nobn", image_shape=(8, 8, 1), num_classes=10, rngs=rngs)
    ),
    optimizer=optax.adam(2e-3),
)
CNN_TANH = Recipe(
    data=images("digits"),
    network=linen(
        CNN((12, 24, 36), (1, 2, 1), activation=nn.tanh, kernel_init=init.xavier_normal())
    ),
    optimizer=optax.MultiSteps(optax.adam(3e-3), 2).gradient_transformation(),
)
CNN_DEEP_NORM = Recipe(
    data=images("digits"),
    network=linen(CNN((16,) * 10, (2, *(1,) * 9), norm="batch")),
    optimizer=optax.sgd(0.02, momentum=0.9),
)
RESNET_GROUP_NORM = Recipe(
    data=images("mnist", size=24),
    network=linen(ResNet((12, 24, 24), (2, 2, 1), norm="group")),
    optimizer=optax.chain(
        optax.add_decayed_weights(1e-4), optax.sgd(0.03, momentum=0.9, nesterov=True)
    ),
)
RESNET_ZERO_SCALE = Recipe(
    data=images("digits"),
    network=linen(ResNet((8, 16, 16), (1, 2, 1), last_scale_init=init.zeros)),
    optimizer=optax.adam(3e-3),
)
RESNET_NNX = Recipe(
    data=images("digits", size=48),
    network=nnx_split(
        lambda rngs: build("resnet", image_shape=(8, 8, 1), num_classes=10, rngs=rngs)
    ),
    optimizer=optax.adamw(2e-3, weight_decay=0.02),
    hides_model=True,
)
TRANSFORMER_TEXT = Recipe(
    data=text(size=12, length=40),
    network=linen(
        Transformer(
            depth=3,
            width=48,
            num_tokens=num_characters(),
            num_classes=num_characters(),
            embedding_init=init.normal(0.02),
            out_init=init.normal(0.02 / 6**0.5),
            activation=nn.relu,
        )
    ),
    optimizer=optax.adam(optax.linear_schedule(0.0, 2e-3, 30)),
)
TRANSFORMER_ROWS = Recipe(
    data=images("mnist", form="rows", size=32),
    network=linen(Transformer(depth=2, width=48, heads=2)),
    optimizer=optax.adam(1e-3),
)
LSTM_TEXT = Recipe(
    data=text(size=16, length=24),
    network=linen(
        Recurrent(48, "lstm", depth=2, num_tokens=num_characters(), num_classes=num_characters())
    ),
    optimizer=optax.adam(5e-3),
)
GRU_ROWS = Recipe(
    data=images("digits", form="rows", size=48),
    network=linen(Recurrent(40, "gru")),
    optimizer=optax.rmsprop(2e-3),
)
RNN_IDENTITY = Recipe(
    data=images("digits", form="rows"),
    network=linen(
        Recurrent(
            56,
            "simple",
            activation=nn.relu,
            recurrent_init=lambda key, shape, dtype=jnp.float32: jnp.eye(*shape, dtype=dtype),
        )
    ),
    optimizer=optax.adam(1e-3),
)
RNN_LATE = Recipe(
    data=images("digits", form="rows", delay=20),
    network=linen(Recurrent(96, "simple", recurrent_init=init.orthogonal(1.0))),
    optimizer=optax.adam(5e-4),
)

SCENARIOS = (
    Scenario(name="held-mlp-selu", family="mlp", recipe=MLP_SELU),
    Scenario(name="held-mlp-silu", family="mlp", recipe=MLP_SILU),
    Scenario(
        name="held-mlp-sigmoid",
        family="mlp",
        recipe=MLP_SIGMOID,
        why="One sigmoid layer: old, and it trains.",
    ),
    Scenario(
        name="held-mlp-residual",
        family="mlp",
        recipe=MLP_RESIDUAL,
        why="Sixteen layers, whose sum a small head keeps from starting at a high loss.",
    ),
    Scenario(name="held-cnn-group-norm", family="cnn", recipe=CNN_GROUP_NORM),
    Scenario(name="held-cnn-nnx", family="cnn", recipe=CNN_NNX),
    Scenario(
        name="held-cnn-tanh",
        family="cnn",
        recipe=CNN_TANH,
        why="Gradients of two steps are gathered: the first update is 0.",
    ),
    Scenario(name="held-cnn-deep-norm", family="cnn", recipe=CNN_DEEP_NORM),
    Scenario(name="held-resnet-group-norm", family="resnet", recipe=RESNET_GROUP_NORM),
    Scenario(
        name="held-resnet-zero-scale",
        family="resnet",
        recipe=RESNET_ZERO_SCALE,
        why="The blocks' convolutions have no gradient at the first step, and have at the next.",
    ),
    Scenario(name="held-resnet-nnx", family="resnet", recipe=RESNET_NNX),
    Scenario(
        name="held-transformer-text",
        family="transformer",
        recipe=TRANSFORMER_TEXT,
        why="GPT-2's small deviations, and a warm-up from 0.",
    ),
    Scenario(name="held-transformer-rows", family="transformer", recipe=TRANSFORMER_ROWS),
    Scenario(name="held-lstm-text", family="rnn", recipe=LSTM_TEXT),
    Scenario(name="held-gru-rows", family="rnn", recipe=GRU_ROWS),
    Scenario(
        name="held-rnn-identity",
        family="rnn",
        recipe=RNN_IDENTITY,
        why="ReLU and the identity (Le et al. 2015): the state adds up over the steps.",
    ),
    Scenario(name="held-mlp-selu-trained", family="mlp", recipe=after_training(MLP_SELU, 150)),
    Scenario(name="held-mlp-silu-trained", family="mlp", recipe=after_training(MLP_SILU, 300)),
    Scenario(name="held-cnn-nnx-trained", family="cnn", recipe=after_training(CNN_NNX)),
    Scenario(name="held-resnet-nnx-trained", family="resnet", recipe=after_training(RESNET_NNX)),
    Scenario(
        name="held-transformer-text-trained",
        family="transformer",
        recipe=after_training(TRANSFORMER_TEXT),
    ),
    Scenario(name="held-gru-rows-trained", family="rnn", recipe=after_training(GRU_ROWS)),
)
