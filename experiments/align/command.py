"""The command: read two checkpoints, match, show, write."""

import dataclasses
import importlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from tqdm import tqdm

from experiments.align import files
from experiments.align.guess import guess
from experiments.align.written import read_spec
from experiments.errors import CheckpointError, UsageError
from pfn_optax.align import Alignment, align
from pfn_optax.units import UnitSpec, check_spec, unit_spec


@dataclasses.dataclass(frozen=True)
class AlignCheckpoints:
    """Permute the hidden units of checkpoint B so that it comes near to checkpoint A."""

    a: tyro.conf.Positional[Path]
    """The checkpoint that stays: .safetensors, .npz or a folder written by Orbax."""
    b: tyro.conf.Positional[Path]
    """The one that is aligned to it, of the same architecture. Neither file is ever changed."""
    out: Path | None = None
    """Where to write B aligned; the ending sets the format. By default beside B: B-aligned.npz."""
    spec: str = "auto"
    """A JSON file with the axes of each group of units, or `auto`: told from names and shapes."""
    model: str | None = None
    """`module:function` of `(params, x)`: traced to find the units, or to check a written spec."""
    input_shape: tuple[int, ...] | None = None
    """Shape of x for --model, with the batch, such as 1 28 28 1."""
    method: Literal["greedy", "beam", "coordinate"] = "coordinate"
    """How to match, see `pfn_optax.align.align`."""
    objective: Literal["squared", "standardised"] = "squared"
    """What to make small, see `pfn_optax.align.distance`."""
    restarts: int = 1
    """Descents of `coordinate`, the first from B as it is."""
    beam_width: int = 10
    """Partial alignments kept, of `beam`."""
    seed: int = 0
    """Of the random choices."""
    overwrite: bool = False
    """Write over an earlier OUT. Inputs are never written over."""

    def __post_init__(self):
        """Check what can be checked before any work is done."""
        if (self.model is None) != (self.input_shape is None):
            raise UsageError("--model and --input-shape go together")
        if self.model and ":" not in self.model:
            raise UsageError(f"--model is written module:function; got {self.model!r}")
        for name in ("restarts", "beam_width"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1; got {getattr(self, name)}")

    def run(self) -> None:
        """Align, print what came of it, and write."""
        out = self.out or self.b.with_name(f"{self.b.stem}-aligned{self.b.suffix}")
        for given in (self.a, self.b):
            _require_apart(out, given)
        files.require_writable(out, overwrite=self.overwrite)
        with tqdm(total=4, unit=" steps") as bar:
            bar.set_description("reading")
            a, b = files.load(self.a), files.load(self.b)
            bar.update()
            bar.set_description("finding units")
            spec, remarks = self._spec(b.tree)
            bar.update()
            bar.set_description("matching")
            started = time.monotonic()
            try:
                found = align(
                    a.tree,
                    b.tree,
                    spec,
                    method=self.method,
                    objective=self.objective,
                    key=jax.random.key(self.seed),
                    restarts=self.restarts,
                    beam_width=self.beam_width,
                )
            except ValueError as error:
                raise CheckpointError(
                    f"{self.a} and {self.b} cannot be matched: {error}"
                ) from error
            seconds = time.monotonic() - started
            bar.update()
            bar.set_description("writing")
            files.save(out, b._replace(tree=found.params), overwrite=self.overwrite)
            bar.update()
        print("\n".join([*remarks, "", table(found), "", f"matched in {seconds:.1f} s"]))
        print(f"written to {out}")

    def _spec(self, tree: Any) -> tuple[UnitSpec, list[str]]:
        """The groups of units, and what to tell about where they come from."""
        if self.model is None:
            if self.spec != "auto":
                remark = f"units from {self.spec}, not checked: pass --model to do so"
                return read_spec(Path(self.spec), tree), [remark]
            guessed = guess(tree)
            lines = ["units told from names and shapes, assuming that"]
            lines += [f"- {assumption}" for assumption in guessed.assumptions]
            return guessed.spec, [*lines, "Where that is wrong, pass --spec or --model."]
        function = _function(self.model)
        inputs = jax.ShapeDtypeStruct(self.input_shape or (), jnp.float32)
        try:
            if self.spec == "auto":
                spec = unit_spec(function, tree, inputs)
                return spec, [f"units traced in {self.model} and checked", *spec.warnings]
            spec = read_spec(Path(self.spec), tree)
            check_spec(spec, function, tree, inputs)
        except (ValueError, TypeError, KeyError) as error:
            raise CheckpointError(f"{self.model} does not fit {self.b}: {error}") from error
        return spec, [f"units from {self.spec}, checked on {self.model}"]


def table(found: Alignment) -> str:
    """The objective and the groups as a Markdown table."""
    lines = ["| group | units | moved |", "| --- | --- | --- |"]
    moved = {
        name: int(np.sum(order != np.arange(len(order))))
        for name, order in found.permutations.items()
    }
    for group in found.spec.groups:
        lines.append(f"| {group.name} | {group.size} | {moved[group.name]} |")
    lines.append(f"| all | {sum(g.size for g in found.spec.groups)} | {sum(moved.values())} |")
    change = f"objective {found.before:.6g} -> {found.after:.6g} ({found.status})"
    return "\n".join([*lines, "", change])


def _function(name: str) -> Callable[..., Any]:
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"--model {name} cannot be imported: {error}") from error


def _require_apart(out: Path, given: Path) -> None:
    own, other = out.resolve(), given.resolve()
    if own == other or own.is_relative_to(other) or other.is_relative_to(own):
        raise UsageError(f"{out} is an input, or lies in one: inputs are never written over.")
