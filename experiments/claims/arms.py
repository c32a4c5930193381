"""The arms: plain optimizers, PFN in its settings, and what PFN has to beat."""

from dataclasses import dataclass
from typing import Literal

from pfn_optax.capacity import CAPACITIES, DEFAULT_CAPACITY

OptimizerName = Literal["sgd", "adamw"]
Scenario = Literal["cnn_bn", "cnn_nobn", "hourglass"]
Place = Literal["before", "behind"]
Family = Literal["plain", "study", "default", "setting", "control", "growth"]
Action = Literal[
    "none",
    "amplify",
    "permuted",
    "redrawn",
    "uniform",
    "decay",
    "rebalance",
    "grow",
    "grow_random",
]

SCENARIOS: tuple[Scenario, ...] = ("cnn_bn", "cnn_nobn", "hourglass")
OPTIMIZERS: tuple[OptimizerName, ...] = ("sgd", "adamw")


@dataclass(frozen=True)
class Flow:
    """How the cut is found, and how strongly it is amplified.

    Attributes:
        graph: `"chain"`, `"layers"` or `"units"`, as in `experiments.graphs`.
        capacity: Rule of `pfn`.
        num_blocks: Blocks per layer; None for the protocol's block size.
        beta: As in `pfn`.
        gamma: As in `pfn`.
        intervals: Diagnoses in a run.
    """

    graph: Literal["chain", "layers", "units"] = "layers"
    capacity: str = DEFAULT_CAPACITY
    num_blocks: int | None = None
    beta: float = 1.8
    gamma: float = 0.15
    intervals: int = 30


# Section 3.2 of the study: ranks of gradient norms among the blocks of a layer, layers in a row.
STUDY = Flow(graph="chain", capacity="rank", num_blocks=4)


@dataclass(frozen=True)
class Arm:
    """What is trained, but for scenario, learning rate and seed.

    Attributes:
        name: Its name in tables, figures and files.
        family: What it is for. Controls are what a setting of PFN has to beat.
        flow: The diagnosis; arms without PFN are diagnosed as well, for the record.
        action: What is done with the cut.
        place: Whether the gradients before the optimizer are scaled, or its updates behind it.
        renormalize: Whether the norm that the scaling changes is restored.
        optimizer: Instead of the plain optimizer; see `optimizers`.
    """

    name: str
    family: Family
    flow: Flow = Flow()
    action: Action = "amplify"
    place: Place = "before"
    renormalize: bool = False
    optimizer: str | None = None


def advised_place(optimizer: str) -> Place:
    """Where the documentation puts PFN: behind optimizers that divide a gradient's size out."""
    return "before" if optimizer == "sgd" else "behind"


def arms_of(scenario: Scenario, optimizer: OptimizerName) -> tuple[Arm, ...]:
    """All arms of a scenario with an optimizer, the plain one first.

    Settings are placed where the documentation advises: before SGD, behind AdamW.

    Args:
        scenario: The network.
        optimizer: The plain optimizer.

    Returns:
        Arms of different names.
    """
    place = advised_place(optimizer)
    arms = [Arm("plain", "plain", action="none")]
    for each in ("before", "behind"):
        arms.append(Arm(f"study, {each}", "study", STUDY, place=each))
        arms.append(Arm(f"default, {each}", "default", place=each))
    for graph in ("layers", "units"):
        for capacity in CAPACITIES:
            if (graph, capacity) != ("layers", DEFAULT_CAPACITY):
                flow = Flow(graph=graph, capacity=capacity)
                arms.append(Arm(f"{graph}, {capacity}", "setting", flow, place=place))
    arms += [
        Arm("beta 0.3", "setting", Flow(beta=0.3), place=place),
        Arm("beta 0.9", "setting", Flow(beta=0.9), place=place),
        Arm("gamma 0", "setting", Flow(gamma=0.0), place=place),
        Arm("decaying", "setting", action="decay", place=place),
        Arm("15 diagnoses", "setting", Flow(intervals=15), place=place),
        Arm("60 diagnoses", "setting", Flow(intervals=60), place=place),
    ]
    if scenario != "cnn_bn":  # the scale of what a norm follows is nobody's
        arms.append(Arm("rebalanced", "setting", action="rebalance", place=place))
    for name, flow in (("study", STUDY), ("default", Flow())):
        for action in ("permuted", "redrawn", "uniform"):
            arms.append(Arm(f"{name}, {action}", "control", flow, action, place))
        arms.append(Arm(f"{name}, renormalized", "setting", flow, place=place, renormalize=True))
    rivals = {"sgd": ("lars", "agc_sgd", "muon"), "adamw": ("lamb", "agc_adamw")}[optimizer]
    arms += [Arm(name, "control", action="none", optimizer=name) for name in rivals]
    if scenario == "hourglass":
        # Not counted per pixel: else the head is the cut, and asks for no units.
        flow = Flow(capacity="effective_rank")
        arms.append(Arm("growth at the cut", "growth", flow, "grow"))
        arms.append(Arm("growth at random", "growth", flow, "grow_random"))
    return tuple(arms)
