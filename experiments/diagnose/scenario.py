"""A scenario: a recipe, and what a diagnosis of it should say."""

from dataclasses import dataclass, field
from typing import Literal

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
