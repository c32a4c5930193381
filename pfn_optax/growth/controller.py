"""A controller that a training loop calls now and then: the network grows where its cut is."""

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from pfn_optax.growth.budget import Budget
from pfn_optax.growth.changes import Kind
from pfn_optax.growth.deciding import Case, Outcome
from pfn_optax.growth.grow import Grown, How, widths
from pfn_optax.growth.kinds import known_kinds
from pfn_optax.growth.metering import fast_of
from pfn_optax.growth.modules import (
    Sizes,
    rebuilt,
    rebuilt_optimizer,
    require_same_outputs,
    suspects,
    taken_apart,
)
from pfn_optax.growth.proposal import Proposal, Rule
from pfn_optax.growth.record import GrowthRecord
from pfn_optax.growth.resizing import places_of
from pfn_optax.growth.settings import Settings
from pfn_optax.growth.shapes import shapes_at
from pfn_optax.growth.state import Rebuild
from pfn_optax.growth.stepped import Stepped, SteppedModule
from pfn_optax.units import UnitSpec, resized

_LOGGER = logging.getLogger("pfn_optax.growth")


class GrowthController:
    """Grows a network while it trains, where its minimum cut is, within a budget.

    Call `step` (for a module of NNX `step_module`) every few diagnoses. It ranks the groups by how
    long and how deep they have been in the cut (`rank_groups`). Those that `patience` diagnoses in
    a row found there grow together, by a `factor` and up to a multiple of `chunk`, as far as the
    budget goes: a group takes log(width) / log(factor) sizes at most on its way, all changes of a
    call cost one compilation, and there are at most `max_changes` of them. What was diagnosed
    before a change does not count after it.

    With `reallocate` the number of parameters never rises above that of the first call: groups with
    capacity to spare (`slack_groups`) are shrunk first, one after the other, as far as the loss
    allows, and what they free is what the groups at the cut grow by.

    It holds the architecture and how it came about (`record`), which a checkpoint needs besides
    parameters and states; `restore` reads it. On the host: if anything raises, nothing has changed.
    Each change is logged to "pfn_optax.growth" with its reasons.

    Args:
        spec: the groups of units of the network that the run starts with.
        optimizer: its optimizer, with one `pfn` or `with_pfn` in it.
        budget: how much the network may cost. Default: no bound but `max_changes`.
        factor: by what the number of units of a group is multiplied, at most.
        chunk: what numbers of units are rounded up to a multiple of. Where units are sharded, a
            multiple of the number of devices.
        patience: diagnoses in a row since the last change that must find a group in the cut.
        max_groups: number of groups that grow at a time. Default: all that qualify.
        max_changes: number of changes, each of which costs a compilation.
        how: as for `grow`.
        reallocate: whether to keep the number of parameters.
        function: `function(tree, *batch)`, as given to `unit_spec`, of the parameters (and batch
            statistics) to the outputs: for `reallocate`, a budget of FLOPs and `check`.
        batches: tuples of its further arguments; FLOPs are those of the first.
        loss: `loss(outputs, *batch)`, the mean over a batch, for `reallocate`.
        max_loss_increase: by how much what is shrunk in one call may raise the loss.
        rebuild: from a spec to the function of a network of its sizes, where `function` fixes
            them, as a module of Flax does.
        rebuild_optimizer: as for `grow`; a bound of memory calls it with abstract parameters.
        graph: as given to `pfn`; where it depends on sizes (a graph of units, skips), a function of
            (params, spec) that returns it.
        kinds: as for `grow`; what is not given is found once for all changes.
        extra_args: as for `grow`.
        check: whether to prove the spec with `check_spec` before the first change.
        seed: of what is drawn.
        **pfn_options: `capacity`, `block_size`, `num_blocks`, `output_axis`, as given to `pfn`.

    Raises:
        ValueError: if an option is out of range, or lacks another one.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from pfn_optax import pfn
        >>> from pfn_optax.growth import Budget, GrowthController
        >>> from pfn_optax.units import unit_spec
        >>> params = {"a": jnp.ones((3, 4)), "b": jnp.ones((4, 1)), "c": jnp.ones((1, 3))}
        >>> def predict(params, x):
        ...     return jnp.tanh(jnp.tanh(x @ params["a"]) @ params["b"]) @ params["c"]
        >>> spec = unit_spec(predict, params, jnp.ones((1, 3)))
        >>> optimizer = optax.chain(pfn(capacity="norm", every=1), optax.sgd(0.1))
        >>> controller = GrowthController(
        ...     spec, optimizer, budget=Budget(params=80), patience=1, capacity="norm"
        ... )
        >>> _, state = optimizer.update(params, optimizer.init(params), params)
        >>> params, spec, state, *_ = controller.step(params, state)
        >>> params["b"].shape, params["c"].shape
        ((4, 8), (8, 3))
        >>> print(controller.record)
        step 1: b grows from 1 to 8 units: in the cut at the last diagnosis, with 100% of its ...
    """

    def __init__(
        self,
        spec: UnitSpec,
        optimizer: Any,
        *,
        budget: Budget | None = None,
        factor: float = 2.0,
        chunk: int = 8,
        patience: int = 2,
        max_groups: int | None = None,
        max_changes: int = 10,
        how: How = "fresh",
        reallocate: bool = False,
        function: Callable[..., Any] | None = None,
        batches: Iterable[tuple[Any, ...]] = (),
        loss: Callable[..., Any] | None = None,
        max_loss_increase: float | None = None,
        rebuild: Callable[[UnitSpec], Callable[..., Any]] | None = None,
        rebuild_optimizer: Rebuild | None = None,
        graph: Any = None,
        kinds: Mapping[str, Kind] | None = None,
        extra_args: Mapping[str, Any] | None = None,
        check: bool = False,
        seed: int = 0,
        **pfn_options: Any,
    ):
        """Checks the options."""
        self._settings = Settings(
            rule=Rule(factor, chunk, patience, max_groups),
            budget=budget or Budget(),
            max_changes=max_changes,
            how=how,
            reallocate=reallocate,
            function=function,
            batches=tuple(batches),
            loss=loss,
            max_loss_increase=max_loss_increase,
            rebuild=rebuild,
            rebuild_optimizer=rebuild_optimizer,
            graph=graph,
            kinds=kinds or {},
            extra_args=extra_args,
            check=check,
            seed=seed,
            pfn_options=pfn_options,
        )
        self._spec, self._optimizer, self._record = spec, optimizer, GrowthRecord(widths(spec))
        self._kinds: Mapping[str, Kind] | None = None
        self._graph: Any = None

    @property
    def spec(self) -> UnitSpec:
        """The groups of units now."""
        return self._spec

    @property
    def optimizer(self) -> Any:
        """The optimizer for the sizes of now."""
        return self._optimizer

    @property
    def record(self) -> GrowthRecord:
        """The architecture, and all decisions: `record.to_dict()` belongs into each checkpoint."""
        return self._record

    def propose(self, params: Any, optimizer_state: Any, *, batch_stats: Any = None) -> Proposal:
        """Says what `step` would grow, with reasons, and changes nothing.

        Args:
            params: as for `step`.
            optimizer_state: as for `step`.
            batch_stats: as for `step`.

        Returns:
            The proposal; with `reallocate`, what the groups in the cut ask for.

        Raises:
            ValueError: if what is given does not belong together, or costs too much already.
        """
        return self._case(Grown(params, self._spec, optimizer_state, batch_stats)).proposal()

    def step(
        self,
        params: Any,
        optimizer_state: Any,
        *,
        batch_stats: Any = None,
        step: int | None = None,
    ) -> Stepped:
        """Changes the network, if there is reason to.

        Args:
            params: the parameters, as the optimizer has them.
            optimizer_state: the optimizer's state.
            batch_stats: batch statistics and other state with an entry per unit.
            step: the training step, for the record. Default: that of `pfn`.

        Returns:
            The network to go on with: the one given, or one with other sizes.

        Raises:
            UnitSpecError: if the spec fails its check.
            ValueError: if the budget is exceeded already, `optax.MultiSteps` is in the middle of a
                cycle, the trees are not those of the spec, the optimizer and the options, or as for
                `grow`.
        """
        outcome = self._case(Grown(params, self._spec, optimizer_state, batch_stats)).outcome(step)
        self._take(outcome)
        network = outcome.network
        return Stepped(
            network.params,
            network.spec,
            network.optimizer_state,
            network.batch_stats,
            outcome.optimizer,
            outcome.decision,
        )

    def step_module(
        self,
        module: Any,
        optimizer: Any,
        *,
        inputs: tuple[Any, ...],
        sizes: Sizes | None = None,
        step: int | None = None,
    ) -> SteppedModule:
        """Does the same to a module of Flax NNX and its optimizer.

        Args:
            module: the module.
            optimizer: an `nnx.Optimizer` of it, for its `nnx.Param`.
            inputs: as for `grow_module`; where something was shrunk, outputs are not compared.
            sizes: as for `grow_module`.
            step: as for `step`.

        Returns:
            The module and the optimizer to go on with.

        Raises:
            ValueError: as `step` and `grow_module`.
        """
        apart = taken_apart(module, optimizer)
        network = Grown(apart.params, self._spec, apart.optimizer_state, apart.rest)
        outcome = self._case(network).outcome(step)
        new, new_optimizer = module, optimizer
        if outcome.decision.has_changed:
            new = rebuilt(module, outcome.network, sizes or {})
            hints = suspects(new, self._spec, outcome.network.spec)
            if not outcome.decision.shrunk:
                require_same_outputs(module, new, inputs, hints)
            new_optimizer = rebuilt_optimizer(
                new, optimizer, outcome.network.optimizer_state, outcome.optimizer
            )
        self._take(outcome)
        return SteppedModule(new, self._spec, new_optimizer, outcome.decision)

    def restore(self, record: Mapping[str, Any], params: Any, *, batch_stats: Any = None) -> Grown:
        """Takes up the architecture of a checkpoint, before its values are read.

        Args:
            record: what `record.to_dict()` was.
            params: parameters of the sizes that the run started with, of which shapes are read.
            batch_stats: batch statistics likewise.

        Returns:
            Parameters, optimizer state and batch statistics as `jax.ShapeDtypeStruct`, for Orbax to
            restore into; `optimizer` is then the one for them.

        Raises:
            ValueError: if the record is none, or of a network that starts with other sizes.
        """
        spec, found = self._restored(record)
        fast = fast_of(params)
        places = places_of(self._spec, fast, batch_stats)
        params, batch_stats = shapes_at(spec, places, params, batch_stats)
        optimizer = self._optimizer_at(params, spec)
        state = jax.eval_shape(optimizer.init, params)
        self._spec, self._optimizer, self._record = spec, optimizer, found
        return Grown(params, spec, state, batch_stats)

    def restore_module(
        self, record: Mapping[str, Any], module: Any, optimizer: Any, *, sizes: Sizes | None = None
    ) -> tuple[Any, Any]:
        """Does the same for a module of Flax NNX.

        Args:
            record: what `record.to_dict()` was.
            module: the module that the run started with.
            optimizer: its `nnx.Optimizer`.
            sizes: as for `grow_module`.

        Returns:
            A module and an optimizer of the sizes of the checkpoint; what has changed its size is
            zero. Read their `nnx.state` from the checkpoint.

        Raises:
            ValueError: as `restore`.
        """
        apart = taken_apart(module, optimizer)
        spec, found = self._restored(record)
        places = places_of(self._spec, apart.params, apart.rest)
        shapes = shapes_at(spec, places, apart.params, apart.rest)
        params, rest = jax.tree.map(
            lambda shape, leaf: leaf if shape.shape == leaf.shape else jnp.zeros_like(shape),
            shapes,
            (apart.params, apart.rest),
        )
        new = rebuilt(module, Grown(params, spec, None, rest), sizes or {})
        tx = self._optimizer_at(params, spec)
        new_optimizer = rebuilt_optimizer(new, optimizer, tx.init(params), tx)
        self._spec, self._optimizer, self._record = spec, tx, found
        return new, new_optimizer

    def _restored(self, record: Mapping[str, Any]) -> tuple[UnitSpec, GrowthRecord]:
        found = GrowthRecord.from_dict(record)
        if found.initial != self._record.initial or self._record.decisions:
            raise ValueError(
                "the record is of a run that started with another network: it had the groups "
                f"{found.initial}, this controller has {widths(self._spec)}. Make a new controller "
                "with the network that the run started with."
            )
        changed = {name: size for name, size in found.widths.items() if size != found.initial[name]}
        return resized(self._spec, changed), found

    def _optimizer_at(self, params: Any, spec: UnitSpec) -> Any:
        rebuild = self._settings.rebuild_optimizer
        return self._optimizer if rebuild is None else rebuild(params, spec)

    def _case(self, network: Grown) -> Case:
        if self._graph is None:
            self._graph = self._settings.graph_at(fast_of(network.params), self._spec)

        def kinds() -> Mapping[str, Kind]:
            if self._kinds is None:
                self._kinds = self._found_kinds(network)
            return self._kinds

        return Case(self._settings, network, self._optimizer, self._graph, self._record, kinds)

    def _found_kinds(self, network: Grown) -> Mapping[str, Kind]:
        settings = self._settings
        try:
            return known_kinds(
                self._optimizer,
                network.params,
                network.optimizer_state,
                given=settings.kinds,
                extra_args=settings.extra_args,
            )
        except Exception:  # whatever an optimizer raises; growth says what it does not know
            return settings.kinds

    def _take(self, outcome: Outcome) -> None:
        """Goes on with what was decided."""
        decision = outcome.decision
        self._record = self._record.with_decision(decision, outcome.reference)
        self._spec, self._optimizer = outcome.network.spec, outcome.optimizer
        if decision.has_changed:
            self._graph = None
        _LOGGER.log(logging.INFO if decision.has_changed else logging.DEBUG, "%s", decision)
