"""Networks to start from, by name, and the images that they learn."""

import functools
from typing import NamedTuple, cast, get_args

import jax
import jax.numpy as jnp

from experiments.data import DatasetName
from experiments.errors import UsageError
from experiments.growth.images import Images, images


class Start(NamedTuple):
    """A network to start from.

    Attributes:
        dataset: what it learns.
        hidden: its hidden units.
    """

    dataset: DatasetName
    hidden: tuple[int, ...]


def start_of(name: str) -> Start:
    """Reads a name.

    Args:
        name: such as "digits, 4-4": the data set and the hidden units.

    Returns:
        The start.

    Raises:
        UsageError: if the name is not of that form.

    Example:
        >>> start_of("mnist, 48-4-48")
        Start(dataset='mnist', hidden=(48, 4, 48))
    """
    dataset, _, widths = name.partition(", ")
    try:
        hidden = tuple(int(width) for width in widths.split("-"))
    except ValueError:
        hidden = ()
    if dataset not in get_args(DatasetName) or len(hidden) < 2 or min(hidden) < 1:
        raise UsageError(
            f"a start is a data set and two or more widths, such as 'mnist, 8-8'; got {name!r}"
        )
    return Start(cast(DatasetName, dataset), hidden)


@functools.cache
def flat(dataset: DatasetName, num_train: int) -> Images:
    """Images as rows; those of CIFAR-10 are halved to 16 x 16 by means over squares."""
    data = images(dataset, num_train)
    if dataset != "cifar10":
        return data

    def halved(rows: jax.Array) -> jax.Array:
        squares = rows.reshape(-1, 16, 2, 16, 2, 3)
        return jnp.mean(squares, axis=(2, 4)).reshape(len(rows), -1)

    return data._replace(train=halved(data.train), test=halved(data.test))
