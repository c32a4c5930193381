"""Units added while training, where the cut is or at random: padded, so that nothing recompiles."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.claims.arms import Arm
from experiments.claims.lanes import lane, stacked
from experiments.claims.program import Lanes, Program
from pfn_optax import PFNState
from pfn_optax.growth import (
    grow_padded,
    pad,
    rank_groups,
    repad,
    state_kinds,
    unpad,
    widths,
)
from pfn_optax.units import UnitSpec

FIRST, BETWEEN = 3, 2  # diagnoses before the first unit, and from one unit to the next


class Growing:
    """The widths of the runs of one arm."""

    def __init__(self, program: Program, arm: Arm, seeds: tuple[int, ...]):
        """Start from the scenario's widths."""
        setting = program.setting
        self._program, self._arm, self._seeds = program, arm, seeds
        self._options = setting.flow(arm.flow) | {"capacity": arm.flow.capacity}
        self.specs: list[UnitSpec] = [setting.spec for _ in seeds]
        self._events = setting.protocol.events
        self._padded = setting.spec
        self._kinds: Any = None
        self._since = [0] * len(seeds)

    def start(self, lanes: Lanes) -> Lanes:
        """Pad every run with room for all units that it may be given in one group."""
        sizes = {name: size + self._events for name, size in widths(self.specs[0]).items()}
        made = []
        for number, spec in enumerate(self.specs):
            grown = pad(lane(lanes.params, number), spec, sizes)
            self._padded = grown.spec
            made.append((grown.params, self._program.optimizer.init(grown.params)))
        params, opt_state = stacked(made)
        self._kinds = state_kinds(self._program.optimizer, made[0][0])
        return Lanes(params, lanes.rest, opt_state)

    def masks(self, lanes: Lanes) -> Any:
        """One where a parameter is active and zero in the padding, with lanes."""
        ones = jax.tree.map(jnp.ones_like, lane(lanes.params, 0))
        made = []
        for spec in self.specs:
            narrow = unpad(ones, self._padded, spec)
            made.append(repad(narrow, self._padded).params)
        return stacked(made)

    def grow(self, lanes: Lanes, pfn_state: PFNState, diagnosis: int) -> Lanes:
        """Give each run a unit, if it is time.

        Args:
            lanes: Padded runs.
            pfn_state: Their diagnoses.
            diagnosis: Number of the diagnosis, from 1.

        Returns:
            The runs, of the same function.
        """
        event, is_off = divmod(diagnosis - FIRST, BETWEEN)
        if is_off or not 0 <= event < self._events:
            return lanes
        made = []
        for number, seed in enumerate(self._seeds):
            one = lane((lanes.params, lanes.opt_state), number)
            group = self._choose(lane(pfn_state, number), one[0], number, event)
            if group is not None:
                grown = grow_padded(
                    one[0],
                    self._padded,
                    self.specs[number],
                    group,
                    1,
                    optimizer=self._program.optimizer,
                    optimizer_state=one[1],
                    kinds=self._kinds,
                    how="fresh",
                    key=jax.random.key(1000 * seed + event),
                )
                self.specs[number] = grown.spec
                one = grown.params, grown.optimizer_state
            made.append(one)
        params, opt_state = stacked(made)
        return Lanes(params, lanes.rest, opt_state)

    def _choose(self, state: PFNState, params: Any, number: int, event: int) -> str | None:
        spec = self.specs[number]
        if self._arm.action == "grow_random":
            names = sorted(widths(spec))
            return names[np.random.default_rng((self._seeds[number], 11, event)).choice(len(names))]
        since, self._since[number] = self._since[number], int(state.pfn_diagnoses)
        ranking = rank_groups(state, params, spec, since=since, **self._options)
        return ranking.groups[0].group if ranking.groups else None
