"""The tables of README.md, from the measurements in results/*.json.

    python -m benchmarks.tables

rewrites what stands between `<!-- table NAME -->` and `<!-- end -->`, so that no number of a table
is copied by hand.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
PAGE, RESULTS = FOLDER / "README.md", FOLDER / "results"

_TABLE = re.compile(r"<!-- table (?P<name>\w+) -->\n.*?<!-- end -->", re.DOTALL)


def solver(rows: Sequence[Mapping[str, Any]]) -> str:
    """Formats the solvers' times on each graph."""
    solvers = list(dict.fromkeys(name for row in rows for name in row["milliseconds"]))
    header = ["graph", "edges", "iterated on", *(f"{name}, ms" for name in solvers)]
    header += ["ours / scipy", "ours per solve in a batch of 8, ms", "rounds", "compile, s"]
    lines = []
    for row in rows:
        times = row["milliseconds"]
        # A single edge is no work: the reduction has solved the network.
        core = row["num_core_edges"] if row["num_core_edges"] > 1 else 0
        lines.append(
            [
                row["graph"],
                str(row["num_edges"]),
                str(core),
                *(f"{times[name]:.3g}" if name in times else "-" for name in solvers),
                f"{times['ours'] / times['scipy']:.2f}" if "scipy" in times else "-",
                f"{row['batch_milliseconds']:.3g}",
                str(row["rounds"]),
                f"{row['compile_seconds']:.2f}",
                f"{row['bytes_per_edge']:.0f}",
            ]
        )
    return markdown([*header, "bytes per edge"], lines)


def overhead(record: Mapping[str, Any]) -> str:
    """Formats the updates' times, and what a diagnosis period adds to a training step."""
    updates, whole = record["update_seconds"], record["step_seconds"]
    plain, every = updates["sgd"], record["every"]
    lines = [
        [name, f"{1e3 * time:.3f}", f"{1e3 * (time - plain):.3f}", f"{(time - plain) / whole:.3%}"]
        for name, time in updates.items()
    ]
    other, diagnosing = updates["pfn, other steps"], updates["pfn, diagnosing step"]
    amortised = ((every - 1) * other + diagnosing) / every - plain
    ratio = other / updates["clip_by_global_norm"]
    return "\n\n".join(
        (
            f"{record['num_params']:,} parameters, batch {record['batch_size']}, JAX "
            f"{record['jax']} on {record['device']}: {1e3 * whole:.0f} ms a training step.",
            markdown(["update", "ms", "cost beyond SGD, ms", "share of a training step"], lines),
            f"Amortised at N = {every}: {amortised / whole:.3%} of a step. An update that does not "
            f"diagnose takes {ratio:.2f} times the update behind `optax.clip_by_global_norm`.",
        )
    )


def batches(record: Mapping[str, Any]) -> str:
    """Formats ms per step and model: plain, and what each kind of diagnosis adds."""
    kinds = [name for name in record["rows"][0]["step_milliseconds"] if name != "plain"]
    lines = []
    for row in record["rows"]:
        models, times = row["models"], row["step_milliseconds"]
        plain = times["plain"]
        added = [f"+{(times[kind] - plain) / models:.4f}".replace("+-", "-") for kind in kinds]
        lines.append([str(models), f"{plain:.3f}", f"{plain / models:.4f}", *added])
    header = ["models", "plain, ms per step", "per step and model", *kinds]
    return markdown(header, lines)


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Formats a table."""
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


TABLES = {"solver": solver, "overhead": overhead, "batches": batches}


def rewritten(page: str, records: Mapping[str, Any]) -> str:
    """Replaces every table of a page.

    Args:
        page: Markdown with markers.
        records: the measurements by name of the table.

    Returns:
        The page with the tables of these measurements.

    Raises:
        ValueError: if the page does not have each table once.
    """
    names = _TABLE.findall(page)
    if sorted(names) != sorted(records):
        raise ValueError(
            f"the page has the tables {', '.join(names) or 'none'}, the results "
            f"{', '.join(sorted(records)) or 'none'}; each must be there once, between "
            "<!-- table NAME --> and <!-- end -->."
        )

    def table(match: re.Match[str]) -> str:
        name = match["name"]
        return f"<!-- table {name} -->\n{TABLES[name](records[name])}\n<!-- end -->"

    return _TABLE.sub(table, page)


def measurements() -> dict[str, Any]:
    """Reads the committed measurements, by name."""
    return {file.stem: json.loads(file.read_text()) for file in sorted(RESULTS.glob("*.json"))}


def main() -> None:
    """Rewrites the page."""
    PAGE.write_text(rewritten(PAGE.read_text(), measurements()))


if __name__ == "__main__":
    main()
