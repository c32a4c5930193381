"""From the cut and its persistence to multipliers: the study's compensation operator."""

import jax
import jax.numpy as jnp


def next_persistence(cut: jax.Array, was_cut: jax.Array, persistence: jax.Array) -> jax.Array:
    """Counts the consecutive earlier diagnoses in which a block was in the cut.

    Args:
        cut: bool[num_blocks], in the cut now.
        was_cut: bool[num_blocks], in the cut at the diagnosis before.
        persistence: i32[num_blocks], the count at the diagnosis before.

    Returns:
        i32[num_blocks]: 0 for a block that enters the cut or is not in it.
    """
    return jnp.where(cut & was_cut, persistence + 1, 0)


def compensation(
    cut: jax.Array,
    persistence: jax.Array,
    *,
    beta: jax.Array | float,
    gamma: jax.Array | float,
    max_persistence: jax.Array | int,
) -> jax.Array:
    """Returns `1 + beta (1 + gamma min(persistence, max_persistence))` on the cut and 1 elsewhere.

    With the study's beta 1.8, gamma .15 and bound 15 this is 2.8 at first and at most 6.85.

    Args:
        cut: bool[num_blocks].
        persistence: i32[num_blocks], consecutive earlier diagnoses in the cut.
        beta: strength of the amplification.
        gamma: growth per diagnosis.
        max_persistence: number of diagnoses after which it stops growing.

    Returns:
        f32[num_blocks].
    """
    age = jnp.minimum(persistence, max_persistence).astype(jnp.float32)
    gain = 1.0 + jnp.asarray(beta, jnp.float32) * (1.0 + jnp.asarray(gamma, jnp.float32) * age)
    return jnp.where(cut, gain, 1.0)
