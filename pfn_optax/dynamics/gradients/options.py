"""Which method takes which options, and what they may be."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from pfn_optax.dynamics.gradients.ensemble import Average

Method = Literal["backprop", "shadowing", "shadowing_unstable", "kernel", "path_kernel"]

_NEEDS = {
    "backprop": (),
    "shadowing": ("num_unstable",),
    "shadowing_unstable": ("num_unstable", "window"),
    "kernel": ("noise", "window"),
    "path_kernel": ("noise", "window", "alpha"),
}
_TAKES = {
    "backprop": ("average",),
    "shadowing": ("velocity",),
    "shadowing_unstable": (),
    "kernel": ("average", "num_replicas"),
    "path_kernel": ("average", "num_replicas"),
}
_DEFAULTS = {
    "average": "time",
    "num_replicas": 1,
    "num_unstable": None,
    "velocity": None,
    "noise": None,
    "window": None,
    "alpha": None,
}
_MEANING = {
    "num_unstable": "the number of positive Lyapunov exponents (lyapunov_spectrum counts them)",
    "window": "how many steps the objective remembers a push, a few correlation times",
    "noise": "the standard deviation of what is added to the state after every step",
    "alpha": "the share of a perturbation that each step's noise tells, from 0 to 1",
}


@dataclass(frozen=True)
class Options:
    """What `value_and_grad_long` was given beside the problem; checked when it is made.

    Attributes are its arguments of the same names.
    """

    method: Method
    num_steps: int
    num_transient: int
    segment_steps: int | None
    num_batches: int
    average: Average
    num_unstable: int | None
    velocity: Callable[[Any, Any], Any] | None
    noise: Any
    window: int | None
    alpha: Any
    num_replicas: int

    def __post_init__(self) -> None:
        _require_one_of("method", self.method, get_args(Method))
        _require_one_of("average", self.average, get_args(Average))
        needs, takes = _NEEDS[self.method], _TAKES[self.method]
        if self.average == "end":  # then every step's noise may answer for the end
            needs = tuple(name for name in needs if name != "window")
            takes = (*takes, *(() if self.method == "backprop" else ("window",)))
        for name in needs:
            if getattr(self, name) is None:
                raise ValueError(f"method {self.method!r} needs {name}: {_MEANING[name]}.")
        for name, default in _DEFAULTS.items():
            given = getattr(self, name)
            is_given = given is not None if default is None else given != default
            if is_given and name not in needs + takes:
                raise ValueError(f"method {self.method!r} does not take {name}: leave it out.")
        for name, least in [
            ("num_steps", 1),
            ("num_transient", 0),
            ("num_batches", 1),
            ("num_replicas", 1),
            ("num_unstable", 0),
            ("window", 0),
        ]:
            number = getattr(self, name)
            if number is not None and number < least:
                raise ValueError(f"{name} must be at least {least}, got {number}.")
        if self.average == "end" and self.method != "backprop" and self.num_replicas < 2:
            raise ValueError(
                "average='end' sees each trajectory once, so the baseline is the mean of the other "
                f"replicas: num_replicas must be at least 2, got {self.num_replicas}."
            )
        self._require_share()

    def _require_share(self):
        if self.alpha is None or callable(self.alpha) or isinstance(self.alpha, Tracer):
            return
        if not (np.ndim(self.alpha) == 0 and 0 <= self.alpha <= 1):
            raise ValueError(
                f"alpha is a share, from 0 (backprop) to 1 (kernel), got {self.alpha}. For an SDE "
                "give its rate times the time step; for a schedule, a function of the step."
            )

    @property
    def num_groups(self) -> int:
        """Groups of replicas whose gradients are kept apart: at most a batch's number of them."""
        return next(
            groups
            for groups in range(min(self.num_batches, self.num_replicas), 0, -1)
            if self.num_replicas % groups == 0
        )

    def alpha_of(self, step: jax.Array) -> jax.Array:
        """The share at a step."""
        if callable(self.alpha):
            return jnp.asarray(self.alpha(step), jnp.float32)
        return jnp.asarray(self.alpha, jnp.float32)


def _require_one_of(name: str, value: Any, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, got {value!r}.")
