"""PFN in a Flax Linen training loop, on scikit-learn's digits.

Run with `python -m experiments.linen_example`; `experiments.nnx_example` is the same in NNX.
"""

import jax
import optax
from flax import linen as nn
from flax.training.train_state import TrainState

from experiments.batches import batches
from experiments.data import load
from pfn_optax import cut_report, pfn

EPOCHS = 10
BLOCK_SIZE = 8


class Network(nn.Module):
    """A small convolutional network."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `u8[batch, 8, 8, 1]` to `f32[batch, 10]`."""
        x = nn.relu(nn.Conv(16, (3, 3))(x / 255))
        x = nn.max_pool(x, (2, 2), strides=(2, 2))
        x = nn.relu(nn.Conv(32, (3, 3))(x))
        x = nn.relu(nn.Dense(64)(x.reshape(len(x), -1)))
        return nn.Dense(10)(x)


@jax.jit
def train_step(state: TrainState, images: jax.Array, labels: jax.Array) -> TrainState:
    """One step of AdamW on the gradients that PFN has amplified."""

    def loss(params):
        logits = state.apply_fn({"params": params}, images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    return state.apply_gradients(grads=jax.grad(loss)(state.params))


def main(epochs: int = EPOCHS) -> float:
    """Train, print the test accuracy and the bottleneck; returns the accuracy."""
    digits, network = load("digits"), Network()
    params = network.init(jax.random.key(0), digits.train_images[:1])["params"]
    optimizer = optax.chain(pfn(block_size=BLOCK_SIZE, every=20), optax.adamw(1e-3))
    state = TrainState.create(apply_fn=network.apply, params=params, tx=optimizer)
    for epoch in range(epochs):
        for images, labels in batches(
            digits.train_images,
            digits.train_labels,
            batch_size=64,
            seed=0,
            epoch=epoch,
            augment=False,
        ):
            state = train_step(state, images, labels)
    logits = state.apply_fn({"params": state.params}, digits.test_images)
    accuracy = float((logits.argmax(-1) == digits.test_labels).mean())
    print(f"test accuracy {accuracy:.1%} after {epochs} epochs\n")
    print(cut_report(state.opt_state, state.params, block_size=BLOCK_SIZE))
    return accuracy


if __name__ == "__main__":
    main()
