r"""The embedding principle: a narrow network inside a wider one, with the same outputs and loss.

A unit with incoming weights w and outgoing weights a is split into two, (w, alpha a) and
(w, (1 - alpha) a), for any real alpha. The gradient of each copied weight is its share of the old
one, and that of each shared weight the old one: a critical point stays critical.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from pfn_optax.units import UnitSpec, copy_units


class Embedded(NamedTuple):
    """A network in a wider one.

    Attributes:
        params: the wider parameters, with the structure and dtypes of the narrow ones.
        spec: their groups of units.
    """

    params: Any
    spec: UnitSpec


def embed(
    params: Any, spec: UnitSpec, group: str, unit: int, *, alpha: float | jax.Array = 0.5
) -> Embedded:
    """Splits one unit into two, which together do what it did.

    The function of the wider parameters must be the same but for their sizes: a module of Flax is
    built anew with the new width, and what divides by a width (a mean over units, 1 / sqrt(n)) is
    no longer the same.

    Args:
        params: the parameters; what has an entry per unit (batch statistics) goes along, as it did
            for `unit_spec`.
        spec: their groups, of `unit_spec`.
        group: name of the group of the unit.
        unit: its number. Where it is, the share alpha stays; the other copy comes last.
        alpha: the share, any real number, f[].

    Returns:
        The wider parameters and their spec.

    Raises:
        ValueError: if there is no such group or unit, the units cannot be split (a norm or a
            softmax over them), or the tree is not one of the same model.

    Example:
        >>> import jax.numpy as jnp
        >>> from pfn_optax.landscape import embed
        >>> from pfn_optax.units import unit_spec
        >>> params = {"in": jnp.asarray([[1.0, 2.0]]), "out": jnp.asarray([[3.0], [4.0]])}
        >>> def predict(params, x):
        ...     return jnp.tanh(x @ params["in"]) @ params["out"]
        >>> spec = unit_spec(predict, params, jnp.ones((1, 1)))
        >>> wide, _ = embed(params, spec, "in", 1, alpha=0.25)
        >>> wide["in"].ravel(), wide["out"].ravel()
        (Array([1., 2., 2.], dtype=float32), Array([3., 1., 3.], dtype=float32))

    Reference:
        Zhang, Zhang, Luo, Xu, "Embedding principle of loss landscape of deep neural networks",
        NeurIPS 2021.
    """
    size = spec.group(group).size
    if not 0 <= unit < size:
        raise ValueError(f"group {group!r} has the units 0, ..., {size - 1}, got {unit}.")
    shares = jnp.ones if isinstance(alpha, Tracer) else np.ones
    ones = shares(size + 1)
    ones = _with(_with(ones, unit, alpha), size, 1 - alpha)
    return Embedded(*copy_units(spec, params, {group: [*range(size), unit]}, {group: ones}))


def widen(
    params: Any, spec: UnitSpec, widths: Mapping[str, int], *, key: jax.Array | None = None
) -> Embedded:
    """Splits units until the groups have given widths; the outputs and the loss stay the same.

    Args:
        params: the parameters, as for `embed`.
        spec: their groups.
        widths: the new number of units of each group to be widened.
        key: random key: each new unit is a copy of a random one, and the copies of a unit have
            random shares. Without it units are split in turn, into equal shares.

    Returns:
        The wider parameters and their spec. The old units stay where they are, the new ones follow.

    Raises:
        ValueError: as for `embed`, or if a width is less than it was.

    Example:
        >>> import jax.numpy as jnp
        >>> from pfn_optax.landscape import widen
        >>> from pfn_optax.units import unit_spec
        >>> params = {"in": jnp.asarray([[1.0, 2.0]]), "out": jnp.asarray([[3.0], [4.0]])}
        >>> def predict(params, x):
        ...     return jnp.tanh(x @ params["in"]) @ params["out"]
        >>> spec = unit_spec(predict, params, jnp.ones((1, 1)))
        >>> wide, spec = widen(params, spec, {"in": 5})
        >>> wide["in"].ravel(), spec.group("in").size
        (Array([1., 2., 1., 2., 1.], dtype=float32), 5)

    Reference:
        Chen, Goodfellow, Shlens, "Net2Net: accelerating learning via knowledge transfer", ICLR 2016
        (random copies, equal shares).
    """
    copies, shares = {}, {}
    for number, (name, width) in enumerate(widths.items()):
        size = spec.group(name).size
        if width < size:
            raise ValueError(
                f"group {name!r} has {size} units already, got the width {width}: widen() only "
                "adds units."
            )
        if key is None:
            units, weights = np.arange(width) % size, np.ones(width)
            totals = np.bincount(units)
        else:
            first, second = jax.random.split(jax.random.fold_in(key, number))
            new = jax.random.randint(first, (width - size,), 0, size)
            units = jnp.concatenate([jnp.arange(size), new])
            weights = jax.random.uniform(second, (width,), minval=0.5, maxval=1.5)
            totals = jnp.zeros(size).at[units].add(weights)
        copies[name], shares[name] = units, weights / totals[units]
    return Embedded(*copy_units(spec, params, copies, shares))


def _with(array: Any, index: int, value: Any) -> Any:
    if isinstance(array, np.ndarray):
        array[index] = value
        return array
    return array.at[index].set(value)
