"""One call of a controller: from the state of `pfn` to another network, with reasons."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from pfn_optax.graph import FlowGraph
from pfn_optax.growth.arguments import joined, require_whole_cycle
from pfn_optax.growth.changes import Kind
from pfn_optax.growth.grow import Grown, grow, widths
from pfn_optax.growth.metering import Meter, fast_of
from pfn_optax.growth.proposal import Proposal, proposed
from pfn_optax.growth.ranking import Ranking, rank_groups
from pfn_optax.growth.reallocation import Freed, freed
from pfn_optax.growth.record import Decision, GrowthRecord
from pfn_optax.growth.resizing import places_of
from pfn_optax.growth.settings import Settings
from pfn_optax.growth.shrink import Shrunk, shrink
from pfn_optax.growth.slack import slack_groups
from pfn_optax.growth.state import Rebuild
from pfn_optax.report import snapshot
from pfn_optax.state import PFNState
from pfn_optax.status import Status
from pfn_optax.units import UnitSpec, check_spec


class Outcome(NamedTuple):
    """What is decided.

    Attributes:
        network: the network to go on with.
        optimizer: the optimizer for it.
        decision: what has been changed, and why.
        reference: the number of parameters that reallocation keeps to.
    """

    network: Grown
    optimizer: Any
    decision: Decision
    reference: int


@dataclasses.dataclass(frozen=True)
class Case:
    """What is to be decided.

    Attributes:
        settings: the options of the controller.
        network: the network with its spec and the optimizer's state.
        optimizer: the optimizer.
        graph: the flow graph of the network.
        record: what has been decided before.
        kinds: what the leaves of the optimizer's state are made of, when it comes to a change.
    """

    settings: Settings
    network: Grown
    optimizer: Any
    graph: FlowGraph | None
    record: GrowthRecord
    kinds: Callable[[], Mapping[str, Kind]]

    def proposal(self) -> Proposal:
        """What should grow, within the budget.

        Raises:
            ValueError: if what is given does not belong together, or costs too much already.
        """
        ranking, stop = self._ranking(self._known())
        return self._proposed(ranking, stop, self._meter())

    def outcome(self, step: int | None) -> Outcome:
        """Decides, and changes the network.

        Args:
            step: the training step; default: that of `pfn`.

        Returns:
            The network to go on with, with the reasons.

        Raises:
            ValueError: as `proposal`, `grow` and `shrink`.
        """
        known, meter = self._known(), self._meter()
        ranking, stop = self._ranking(known)
        proposal = self._proposed(ranking, stop, meter)
        reasons, shrunk, room = proposal.reasons, {}, None
        reference = self.record.reference
        reference = meter.now.params if reference is None else reference
        rebuilt = _Rebuilt(self.optimizer, self.settings.rebuild_optimizer)
        if proposal.sizes and self.settings.check and not self.record.num_changes:
            self._check()
        if proposal.sizes and self.settings.reallocate:
            bounded = dataclasses.replace(meter, reference=reference)
            room = self._freed(rebuilt, proposal, bounded)
            now = widths(room.network.spec)
            proposal = proposed(
                ranking, now, self.settings.rule, lambda sizes: bounded.excess({**now, **sizes})
            )
            shrunk = room.shrunk if proposal.sizes else {}
            reasons = (*room.reasons, *proposal.reasons)
        network, optimizer, grown = self.network, self.optimizer, {}
        if proposal.sizes:
            start = network if room is None else room.network
            now = widths(start.spec)
            grown = {name: size - now[name] for name, size in proposal.sizes.items()}
            network, optimizer = self._grown(rebuilt, start, grown), rebuilt.latest
        cost = self.settings.meter(network, optimizer).now if grown else meter.now
        if grown:
            reasons = (*reasons, f"it has {meter.budget.used(cost)} now")
        decision = Decision(
            step=int(known.pfn_step) if step is None else step,
            diagnoses=int(known.pfn_diagnoses),
            cut=proposal.cut,
            grown=grown,
            shrunk=shrunk,
            num_params=cost.params,
            reasons=reasons,
        )
        return Outcome(network, optimizer, decision, reference)

    def _options(self) -> dict[str, Any]:
        return {**self.settings.pfn_options, "graph": self.graph}

    def _known(self) -> PFNState:
        """The state of `pfn`; checks that what is given belongs together."""
        state, params = self.network.optimizer_state, fast_of(self.network.params)
        places_of(self.network.spec, params, self.network.batch_stats)
        require_whole_cycle(state)
        return snapshot(state, params, **self._options()).state

    def _meter(self) -> Meter:
        """What says what the network costs; refuses one that costs too much already."""
        meter = self.settings.meter(self.network, self.optimizer)
        if excess := meter.budget.excess(meter.now):
            raise ValueError(
                f"the budget is exceeded before anything grows, by a network of {excess}: give a "
                "larger budget, or shrink() the network before."
            )
        return meter

    def _ranking(self, known: PFNState) -> tuple[Ranking, str]:
        """The groups at the cut, and why none may grow; empty if they may."""
        ranking = rank_groups(
            self.network.optimizer_state,
            fast_of(self.network.params),
            self.network.spec,
            since=self.record.since,
            **self._options(),
        )
        status = Status(int(known.pfn_status))
        if int(known.pfn_diagnoses) <= self.record.since:
            return ranking, "there was no diagnosis since the sizes changed"
        if status != Status.CERTIFIED:
            return ranking, f"the last diagnosis is {status.name}, see raise_for_status"
        if self.record.num_changes >= self.settings.max_changes:
            return ranking, f"there were as many changes as max_changes={self.settings.max_changes}"
        return ranking, ""

    def _proposed(self, ranking: Ranking, stop: str, meter: Meter) -> Proposal:
        if stop:
            return Proposal({}, tuple(each.group for each in ranking.groups), (stop,))
        return proposed(ranking, widths(self.network.spec), self.settings.rule, meter.excess)

    def _check(self) -> None:
        """Proves the spec."""
        network, settings = self.network, self.settings
        params = fast_of(network.params)
        tree = joined(
            places_of(network.spec, params, network.batch_stats), params, network.batch_stats
        )
        check_spec(network.spec, settings.function_at(network.spec), tree, *settings.batches[0])

    def _freed(self, optimizer: "_Rebuilt", proposal: Proposal, meter: Meter) -> Freed:
        """Shrinks what has capacity to spare."""
        settings, network = self.settings, self.network
        slacks = slack_groups(
            network.optimizer_state, fast_of(network.params), network.spec, **self._options()
        )

        def shrink_by(network: Grown, name: str, num_units: int, bound: float) -> Shrunk:
            return shrink(
                network.params,
                network.spec,
                name,
                num_units,
                function=settings.function_at(network.spec),
                batches=settings.batches,
                loss=settings.loss,
                max_loss_increase=bound,
                rebuild=settings.rebuild,
                **self._following(optimizer, network),
            )

        away = [slack for slack in slacks if slack.group not in proposal.cut]
        bound = settings.max_loss_increase or 0.0
        return freed(network, proposal.sizes, away, settings.rule, meter.excess, shrink_by, bound)

    def _grown(self, optimizer: "_Rebuilt", network: Grown, added: dict[str, int]) -> Grown:
        number = self.record.num_changes
        return grow(
            network.params,
            network.spec,
            added,
            how=self.settings.how,
            key=jax.random.fold_in(jax.random.key(self.settings.seed), number),
            **self._following(optimizer, network),
        )

    def _following(self, optimizer: "_Rebuilt", network: Grown) -> dict[str, Any]:
        """What lets the optimizer's state follow."""
        return {
            "optimizer": optimizer.latest,
            "optimizer_state": network.optimizer_state,
            "rebuild_optimizer": optimizer.rebuild,
            "kinds": self.kinds(),
            "extra_args": self.settings.extra_args,
            "batch_stats": network.batch_stats,
        }


class _Rebuilt:
    """The optimizer, built anew for each change of sizes."""

    def __init__(self, optimizer: Any, rebuild: Rebuild | None):
        self.latest, self._rebuild = optimizer, rebuild

    def rebuild(self, params: Any, spec: UnitSpec) -> Any:
        if self._rebuild is not None:
            self.latest = self._rebuild(params, spec)
        return self.latest
