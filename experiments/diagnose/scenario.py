"""A scenario: a recipe, and what a diagnosis of it should say."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from experiments.diagnose.recipe import Recipe
from experiments.diagnose.training import trained
from pfn_optax.diagnosis import Cause, TrainingSetup

Family = Literal["mlp", "cnn", "resnet", "transformer", "rnn"]


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A recipe with a name, and what a diagnosis of it should say.

    Attributes:
        name: of the scenario.
        family: what kind of network it is.
        recipe: the setup.
        causes: what is planted; several where they are names for the same thing, any of which is
            right; empty if it is healthy.
        layers: paths where it is planted; empty if it is everywhere, or in no layer.
        why: what makes it pathological, or what makes it a healthy one that could mislead.
        base: the healthy recipe that it is a change of.
    """

    name: str
    family: Family
    recipe: Recipe
    causes: tuple[Cause, ...] = ()
    layers: tuple[str, ...] = ()
    why: str = ""
    base: Recipe | None = field(default=None, repr=False)

    def __call__(self, seed: int) -> TrainingSetup:
        """The setup, trained for as many steps as the recipe says."""
        return trained(self.recipe, seed, self.recipe.trained)

    @property
    def is_healthy(self) -> bool:
        """Whether there is nothing to be found."""
        return not self.causes


def planted(
    name: str,
    family: Family,
    causes: Cause | tuple[Cause, ...],
    base: Recipe,
    *,
    why: str,
    layers: tuple[str, ...] = (),
    **changes: Any,
) -> Scenario:
    """A scenario that is a healthy recipe with changes.

    Args:
        name: of the scenario.
        family: what kind of network it is.
        causes: the planted one, or several that are equally right.
        base: the healthy recipe.
        why: what makes it pathological.
        layers: paths where it is planted.
        changes: fields of the recipe.

    Returns:
        The scenario.
    """
    return Scenario(
        name=name,
        family=family,
        recipe=replace(base, **changes),
        causes=causes if isinstance(causes, tuple) else (causes,),
        layers=layers,
        why=why,
        base=base,
    )


def after_training(recipe: Recipe, steps: int = 200) -> Recipe:
    """The same recipe, diagnosed when it has learnt for a while."""
    return replace(recipe, trained=steps)
