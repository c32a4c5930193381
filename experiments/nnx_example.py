"""PFN in a Flax NNX training loop, on scikit-learn's digits.

Run with `python -m experiments.nnx_example`; `experiments.linen_example` is the same in Linen.
"""

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from experiments.batches import batches
from experiments.data import load
from pfn_optax import cut_report, pfn

EPOCHS = 10
BLOCK_SIZE = 8


class Network(nnx.Module):
    """A small convolutional network."""

    def __init__(self, *, rngs: nnx.Rngs):
        """Initialises the parameters."""
        self.conv1 = nnx.Conv(1, 16, (3, 3), rngs=rngs)
        self.conv2 = nnx.Conv(16, 32, (3, 3), rngs=rngs)
        self.hidden = nnx.Linear(4 * 4 * 32, 64, rngs=rngs)
        self.out = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `u8[batch, 8, 8, 1]` to `f32[batch, 10]`."""
        x = nnx.relu(self.conv1(x / 255))
        x = nnx.max_pool(x, (2, 2), strides=(2, 2))
        x = nnx.relu(self.conv2(x))
        return self.out(nnx.relu(self.hidden(x.reshape(len(x), -1))))


@nnx.jit
def train_step(
    network: Network, optimizer: nnx.Optimizer, images: jax.Array, labels: jax.Array
) -> None:
    """One step of AdamW on the gradients that PFN has amplified; changes both in place."""

    def loss(network):
        return optax.softmax_cross_entropy_with_integer_labels(network(images), labels).mean()

    optimizer.update(network, nnx.grad(loss)(network))


def main(epochs: int = EPOCHS) -> float:
    """Train, print the test accuracy and the bottleneck; returns the accuracy."""
    digits, network = load("digits"), Network(rngs=nnx.Rngs(0))
    chain = optax.chain(pfn(block_size=BLOCK_SIZE, every=20), optax.adamw(1e-3))
    optimizer = nnx.Optimizer(network, chain, wrt=nnx.Param)
    for epoch in range(epochs):
        for images, labels in batches(
            digits.train_images,
            digits.train_labels,
            batch_size=64,
            seed=0,
            epoch=epoch,
            augment=False,
        ):
            train_step(network, optimizer, jnp.asarray(images), jnp.asarray(labels))
    accuracy = float(
        (network(jnp.asarray(digits.test_images)).argmax(-1) == digits.test_labels).mean()
    )
    print(f"test accuracy {accuracy:.1%} after {epochs} epochs\n")
    params = nnx.state(network, nnx.Param)
    print(cut_report(optimizer.opt_state, params, block_size=BLOCK_SIZE))
    return accuracy


if __name__ == "__main__":
    main()
