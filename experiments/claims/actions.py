"""From a diagnosis to multipliers: the study's, a variant's, or a control's without the cut."""

import numpy as np

from experiments.claims.arms import Action, Flow

DECAY = 0.8  # per diagnosis in the cut, of what is added to 1


def multipliers(
    action: Action,
    flow: Flow,
    *,
    cut: np.ndarray,
    persistence: np.ndarray,
    amplified: np.ndarray,
    sizes: np.ndarray,
    seed: int,
    diagnosis: int,
) -> np.ndarray:
    """What the blocks of one run are multiplied by until the next diagnosis.

    Args:
        action: `"amplify"`: as `pfn` does. `"permuted"`: the same multipliers on other blocks, by a
            permutation drawn once for the run, so that a block keeps its own. `"redrawn"`: by one
            drawn anew at each diagnosis. `"uniform"`: their mean over parameters, on all blocks.
            `"decay"`: most in the first diagnosis in the cut, less with each further one. All
            others: ones.
        flow: Strength.
        cut: `bool[num_blocks]`.
        persistence: `i32[num_blocks]`.
        amplified: `f32[num_blocks]`, the multipliers of `pfn`.
        sizes: `f32[num_blocks]`, parameters in each block.
        seed: Of the run.
        diagnosis: Number of the diagnosis.

    Returns:
        `f32[num_blocks]`.
    """
    match action:
        case "amplify":
            return amplified
        case "permuted" | "redrawn":
            entropy = (seed, 7) if action == "permuted" else (seed, 7, diagnosis)
            return amplified[np.random.default_rng(entropy).permutation(len(amplified))]
        case "uniform":
            return np.full_like(amplified, np.average(amplified, weights=sizes))
        case "decay":
            gain = 1 + flow.beta * DECAY ** persistence.astype(np.float32)
            return np.where(cut, gain, 1).astype(np.float32)
        case _:
            return np.ones_like(amplified)
