"""Which parameter each leaf of an optimizer's state lies like."""

from dataclasses import dataclass
from typing import Any

import jax
import optax

from pfn_optax.paths import Path, names_of


@dataclass(frozen=True)
class Tried:
    """An optimizer, called with the fast parameters also where it wants the slow ones too."""

    optimizer: Any
    takes_pair: bool

    def _full(self, params: Any) -> Any:
        return optax.LookaheadParams(params, params) if self.takes_pair else params

    def init(self, params: Any) -> Any:
        """Makes the state."""
        return self.optimizer.init(self._full(params))

    def update(self, gradients: Any, state: Any, params: Any, **extra_args: Any) -> Any:
        """Makes updates and the next state."""
        update: Any = self.optimizer.update
        if isinstance(self.optimizer, optax.GradientTransformation):
            update = optax.with_extra_args_support(self.optimizer).update
        return update(gradients, state, self._full(params), **extra_args)


@dataclass(frozen=True)
class StateLeaf:
    """A leaf of an optimizer's state that lies like a parameter, or None as path if it does not.

    Attributes:
        name: its own path in the state.
        field: the name of the field that the parameter-like tree stands in.
        path: path of the parameter.
    """

    name: str
    field: str
    path: Path | None


@dataclass(frozen=True)
class _Label:
    path: Path | None


def state_leaves(optimizer: Any, params: Any, state: Any) -> list[StateLeaf]:
    """Says of every leaf of a state which parameter it lies like.

    Args:
        optimizer: what the state is of.
        params: its parameters.
        state: the state.

    Returns:
        In the order of the leaves of the state.

    Raises:
        ValueError: if it cannot be told.
    """

    def labelled(tree: Any) -> Any:
        return jax.tree_util.tree_map_with_path(lambda path, _: _Label(names_of(path)), tree)

    own = Tried(optimizer, isinstance(params, optax.LookaheadParams))
    try:
        # The whole tree at once: by leaf, masked ones would not fit.
        labels = optax.tree.map_params(
            own,
            labelled,
            state,
            transform_non_params=lambda _: _Label(None),
            is_leaf=lambda _: True,
        )
    except Exception as error:  # whatever an optimizer raises that does not take a placeholder
        raise ValueError(
            "it cannot be told which leaves of the optimizer's state lie like the parameters "
            f"(optax.tree.map_params: {error}): choose an optimizer that keeps trees of their "
            "structure, without optax.flatten."
        ) from error
    found = []
    for (key_path, _), label in zip(
        jax.tree_util.tree_leaves_with_path(state), jax.tree.leaves(labels), strict=True
    ):
        names = names_of(key_path)
        own = names if label.path is None else names[: len(names) - len(label.path)]
        fields = [name for name in own if not name.isdigit()]
        found.append(StateLeaf("/".join(names), fields[-1] if fields else "", label.path))
    return found
