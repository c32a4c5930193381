"""Where an activation has a kink or a jump: there quadrature has to cut its integrals."""

import functools

import jax
import numpy as np

from pfn_optax.precision import double_precision
from pfn_optax.propagation.quadrature import Activation, Kinks, value_and_slope

_REACH = 12.0  # preactivations searched on either side of 0
_NUM_STEPS = 2400
_NUM_HALVINGS = 24
_MOST = 16


def kinks_of(activation: Activation, kinks: Kinks | None) -> Kinks:
    """Returns the kinks given, or if there are none the ones found between -12 and 12.

    Raises:
        ValueError: if there are too many to cut at.
    """
    if kinks is not None:
        return tuple(float(kink) for kink in kinks)
    return _find(activation)


@functools.lru_cache(maxsize=64)
def _find(activation: Activation) -> Kinks:
    """Halves every interval towards its larger change: a smooth change dwindles, a jump stays."""
    with double_precision():
        # Compiled ahead of time, so that it runs here and now, also while a caller is traced.
        places = jax.ShapeDtypeStruct((_NUM_STEPS,), np.float64)
        both = jax.jit(functools.partial(value_and_slope, activation)).lower(places).compile()
        low = np.linspace(-_REACH, _REACH, _NUM_STEPS + 1)[:-1] + 1e-4  # no kink falls on an end
        high = low + 2 * _REACH / _NUM_STEPS
        at_low, at_high = _read(both(low)), _read(both(high))
        scale = max(1e-3, float(np.abs(at_low[1]).max()))
        for _ in range(_NUM_HALVINGS):
            middle = (low + high) / 2
            at_middle = _read(both(middle))
            is_first = _change(at_low, at_middle) > _change(at_middle, at_high)
            low, high = np.where(is_first, low, middle), np.where(is_first, middle, high)
            at_low = np.where(is_first, at_low, at_middle)
            at_high = np.where(is_first, at_middle, at_high)
    found = np.unique(np.round(high[_change(at_low, at_high) > 1e-3 * scale], 6))
    if len(found) > _MOST:
        raise ValueError(
            f"the activation has {len(found)} kinks or jumps between {-_REACH:g} and {_REACH:g}; "
            f"integrals are cut at {_MOST} at most. Pass the ones that matter as kinks=(...)."
        )
    return tuple(float(kink) + 0.0 for kink in found)


def _read(both: tuple[jax.Array, jax.Array]) -> np.ndarray:
    return np.clip(np.nan_to_num(np.stack(jax.device_get(both))), -1e100, 1e100)


def _change(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    return np.abs(after - before).max(axis=0)
