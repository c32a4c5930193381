"""The tables of README.md, from the measurements in results/*.json.

    python -m benchmarks.tables

rewrites what stands between `<!-- table NAME -->` and `<!-- end -->`, so that no number of a table
is copied by hand.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
PAGE, RESULTS = FOLDER / "README.md", FOLDER / "results"

_DIAGNOSING, _RECORDING, _OTHER = ", diagnosing step", ", recording step", ", other steps"
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


def loop(rows: Sequence[Mapping[str, Any]]) -> str:
    """Formats the times of solves within a loop, beside the peer that is fair there."""
    lines = []
    for row in rows:
        times, accepted = row["loop_milliseconds"], row["accepted"]
        ours, peer, warm = (times.get(name) for name in ("ours", "OR-Tools", "ours, warm"))
        lines.append(
            [
                row["graph"],
                str(row["num_edges"]),
                _number(ours),
                _number(peer),
                _ratio(ours, peer),
                _number(warm),
                _ratio(warm, peer),
                "-" if accepted is None else f"{accepted:.0%} of {row['loop_solves']}",
            ]
        )
    header = ["graph", "edges", "ours, ms", "OR-Tools, ms", "ours / OR-Tools", "ours warm, ms"]
    return markdown([*header, "warm / OR-Tools", "solves without rounds"], lines)


def overhead(record: Mapping[str, Any]) -> str:
    """Formats the updates' times, and what a diagnosis period adds to a training step."""
    updates, compiles = record["update_seconds"], record["compile_seconds"]
    whole, every, plain = record["step_seconds"], record["every"], updates["sgd"]
    arms = [name.removesuffix(_DIAGNOSING) for name in updates if name.endswith(_DIAGNOSING)]
    lines = [
        [
            name,
            f"{1e3 * time:.2f}",
            f"{1e3 * (time - plain):.2f}",
            f"{(time - plain) / whole:.3%}",
            f"{compiles[name] - compiles['sgd']:.1f}",
        ]
        for name, time in updates.items()
    ]
    totals = []
    for arm in arms:
        other, diagnosing = updates[arm + _OTHER], updates[arm + _DIAGNOSING]
        amortised = ((every - 1) * other + diagnosing) / every - plain
        totals.append([arm, f"{1e3 * amortised:.2f}", f"{amortised / whole:.3%}"])
    graphs = "; ".join(
        f"{name}: " + ", ".join(f"{count:,} {what}" for what, count in counts.items())
        for name, counts in record["graphs"].items()
    )
    ratio = updates["layers" + _OTHER] / updates["clip_by_global_norm"]
    return "\n\n".join(
        (
            f"{record['num_params']:,} parameters, batch {record['batch_size']}, JAX "
            f"{record['jax']} on {record['device']}: {1e3 * whole:.0f} ms a training step. Graph "
            f"of {graphs}; drawn in {record['draw_seconds']:.1f} s.",
            markdown(
                [
                    "update",
                    "ms",
                    "cost beyond SGD, ms",
                    "share of a training step",
                    "compile beyond SGD, s",
                ],
                lines,
            ),
            markdown(
                ["graph", f"amortised at N = {every}, ms", "share of a training step"], totals
            ),
            f"An update that does not diagnose takes {ratio:.2f} times the update behind "
            "`optax.clip_by_global_norm`.",
        )
    )


def monitors(record: Mapping[str, Any]) -> str:
    """Formats what a record of each monitor costs, and what it adds to a training step."""
    whole, every = record["step_seconds"], record["every"]
    updates, forward = record["update_seconds"], record["forward_seconds"]
    lines = []
    for name in (key for key in (*updates, *forward) if key.endswith(_RECORDING)):
        arm = name.removesuffix(_RECORDING)
        if name in updates:
            plain = updates["sgd"]
            recording, other = updates[name] - plain, updates[arm + _OTHER] - plain
        else:
            recording, other = forward[name], 0.0
        amortised = ((every - 1) * other + recording) / every
        lines.append(
            [arm, f"{1e3 * recording:.1f}", f"{1e3 * other:.2f}", f"{amortised / whole:.3%}"]
        )
    return "\n\n".join(
        (
            f"{record['num_params']:,} parameters, batch {record['batch_size']}, JAX "
            f"{record['jax']} on {record['device']}: {1e3 * whole:.0f} ms a training step, of "
            f"which the plain forward run is {1e3 * forward['plain forward run']:.0f}, the update "
            f"{1e3 * updates['sgd']:.1f}.",
            markdown(
                [
                    "what is recorded",
                    "a record, ms",
                    "other steps, ms",
                    f"amortised at N = {every}, share of a training step",
                ],
                lines,
            ),
        )
    )


def growth(record: Mapping[str, Any]) -> str:
    """Formats what a growth step costs, and the recompile after it."""
    lines = []
    for name, arm in record["optimizers"].items():
        seconds, training = arm["seconds"], arm["training_step_seconds"]
        again = arm["recompile"]
        lines.append(
            [
                name,
                f"{arm['kinds_seconds']:.1f}",
                f"{seconds['proposal']:.2f}",
                f"{seconds['grow']:.2f}",
                f"{seconds['step']:.2f}",
                f"{seconds['step'] / training:.2f}",
                f"{arm['first_step']['seconds']:.2f} ({arm['first_step']['programs']})",
                f"{again['seconds']:.1f} ({again['programs']})",
            ]
        )
    arm = next(iter(record["optimizers"].values()))
    sizes = ", ".join(f"{name} by {number}" for name, number in arm["grown"].items())
    head = (
        f"{arm['num_params']:,} parameters, {arm['new_num_params']:,} afterwards ({sizes}), batch "
        f"{record['batch_size']}, JAX {record['jax']} on {record['device']}. A training step takes "
        f"{arm['training_step_seconds']:.1f} CPU s, tracing the groups of units "
        f"{record['spec_seconds']:.1f} s, once per run."
    )
    header = [
        "optimizer",
        "kinds, s, once per run",
        "proposal, s",
        "`grow`, s",
        "growth step, s",
        "over a training step",
        "first growth step, s (programs)",
        "next training step, s (programs)",
    ]
    return f"{head}\n\n{markdown(header, lines)}"


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


def alignment(record: Mapping[str, Any]) -> str:
    """Formats the times of the assignment solvers and of weight matching."""
    solvers = [
        [
            str(row["size"]),
            *(f"{1e3 * row['seconds'][name]:.3g}" for name in ("scipy", "optax")),
            f"{row['seconds']['optax'] / row['seconds']['scipy']:.1f}",
        ]
        for row in record["assignment"]
    ]
    matching = [
        [
            row["network"],
            row["pair"],
            f"{row['num_params']:,}",
            str(row["rounds"]),
            f"{row['before']:.5g}",
            f"{row['after']:.5g}",
            *(f"{row['seconds'][name]:.3g}" for name in ("ours", "plain")),
            f"{row['seconds']['plain'] / row['seconds']['ours']:.1f}",
        ]
        for row in record["matching"]
    ]
    header = ["network", "pair", "entries", "rounds", "before", "after", "ours, s", "plain, s"]
    return "\n\n".join(
        (
            markdown(["n", "scipy, ms", "optax, ms", "optax / scipy"], solvers),
            markdown([*header, "plain / ours"], matching),
        )
    )


def scaling(record: Mapping[str, Any]) -> str:
    """Formats the largest graph of each family, and how fast the time grows up to it."""
    lines = []
    families = dict.fromkeys(row["family"] for row in record["rows"])
    for family in families:
        rows = [row for row in record["rows"] if row["family"] == family]
        *_, before, last = rows
        calls, loops = last["milliseconds"], last["loop_milliseconds"]
        growth = [
            math.log(last["loop_milliseconds"][name] / before["loop_milliseconds"][name])
            / math.log(last["num_edges"] / before["num_edges"])
            for name in ("ours", "OR-Tools")
            if name in loops
        ]
        num_bytes = last["static_bytes"] + last["xla_bytes"]
        lines.append(
            [
                family,
                str(last["num_nodes"]),
                str(last["num_edges"]),
                *(_number(loops.get(name)) for name in ("ours", "ours, warm", "OR-Tools")),
                *(_number(calls.get(name)) for name in ("scipy", "igraph", "PyMaxflow")),
                " and ".join(f"{power:.1f}" for power in growth),
                f"{num_bytes / 2**20:.1f}",
                f"{last['trace_seconds'] + last['compile_seconds']:.1f}",
            ]
        )
    header = ["family", "nodes", "edges", "ours, ms", "ours warm, ms", "OR-Tools, ms"]
    header += ["scipy, ms", "igraph, ms", "PyMaxflow, ms", "power of the edges"]
    return markdown([*header, "memory, MiB", "trace and compile, s"], lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _ratio(value: float | None, other: float | None) -> str:
    return "-" if value is None or other is None else f"{value / other:.2f}"


def curvature(record: Mapping[str, Any]) -> str:
    """Formats the times of the largest eigenvalues and of the density."""
    seconds, distance, largest = record["seconds"], record["from_scipy"], record["largest"]
    ends = [name for name in seconds if name != "product" and not name.endswith(", density")]
    densities = [name for name in seconds if name.endswith(", density")]
    lines = [
        [name, f"{seconds[name]:.2f}", f"{distance[name]:.1e}" if name in distance else "-"]
        for name in ends
    ]
    shapes = [
        [name.removesuffix(", density"), f"{seconds[name]:.2f}", f"{largest[name]:.5g}"]
        for name in densities
    ]
    if "curvlinops, density" not in seconds:
        shapes.append(["curvlinops (not installed)", "-", "-"])
    dense = record["from_dense"]
    return "\n\n".join(
        (
            f"{record['num_params']:,} parameters, batch {record['batch_size']}, JAX "
            f"{record['jax']} on {record['device']}: {seconds['product']:.3f} s a product.",
            markdown(
                [f"{record['num_values']} largest", "s", "largest relative distance from scipy"],
                lines,
            ),
            f"Ours took {record['num_products']} products, matfree, which does not restart, a "
            f"space of {record['num_matfree_vectors']} vectors. On a network of "
            f"{dense['num_params']} parameters ours are within {dense['distance']:.1e} of the "
            "dense matrix's. One probe of the density, "
            f"{record['num_steps']} products:",
            markdown(["density", "s", "largest eigenvalue seen"], shapes),
        )
    )


def ensembles(record: Mapping[str, Any]) -> str:
    """Formats the times of networks trained side by side and one after the other."""
    lines = []
    for row in record["rows"]:
        seconds = row["seconds"]
        together, scans, steps = seconds.values()
        lines.append(
            [
                str(row["width"]),
                *(f"{value:.3g}" for value in seconds.values()),
                f"{scans / together:.1f}",
                f"{steps / together:.1f}",
            ]
        )
    names = list(record["rows"][0]["seconds"])
    header = ["width", *(f"{name}, s" for name in names)]
    header += [f"{name} / {names[0]}" for name in names[1:]]
    return "\n\n".join(
        (
            f"{record['starts']} networks, {record['steps']} steps each, JAX {record['jax']} on "
            f"{record['device']}:",
            markdown(header, lines),
        )
    )


def dynamics(record: Mapping[str, Any]) -> str:
    """Formats the times of spectra, and what a step costs beside its parts."""
    lines = []
    for row in record["spectra"]:
        times = row["milliseconds_per_step"]
        lines.append(
            [
                str(row["num_exponents"]),
                str(row["qr_every"]),
                *(f"{times[name]:.3g}" for name in ("NumPy", "ours", "ours, batch")),
                f"{times['NumPy'] / times['ours']:.1f}",
                f"{times['NumPy'] / times['ours, batch']:.1f}",
                f"{row['largest_distance']:.1e}",
                row["status"],
            ]
        )
    costs = []
    for row in record["costs"]:
        times = row["milliseconds_per_step"]
        ratio = times["spectrum"] / (times["products"] + times["QR"])
        numbers = [f"{times[name]:.3g}" for name in ("spectrum", "products", "QR")]
        costs.append([str(row["size"]), str(row["num_exponents"]), *numbers, f"{ratio:.2f}"])
    library = []
    for row in record["library"]:
        times = row["milliseconds_per_step"]
        theirs, own = times["lyapynov"], times["ours"]
        numbers = [f"{theirs:.3g}", f"{own:.3g}", f"{theirs / own:.1f}"]
        library.append([row["system"], str(row["num_exponents"]), *numbers])
    library = library or [["lyapynov is not installed", *4 * [""]]]
    batch = f"ours per state of {record['batch']}, ms"
    header = ["exponents", "steps between QR", "NumPy, ms a step", "ours, ms", batch]
    header += ["NumPy / ours", "NumPy / ours of a batch", "largest distance", "status"]
    parts = ["units", "exponents", "spectrum, ms a step", "products, ms", "QR, ms"]
    return "\n\n".join(
        (
            f"{record['size']} units, {record['num_steps']} steps, float32, JAX {record['jax']} on "
            f"{record['device']}.",
            markdown(header, lines),
            markdown(
                ["system", "exponents", "lyapynov, ms a step", "ours, ms", "lyapynov / ours"],
                library,
            ),
            markdown([*parts, "spectrum / (products + QR)"], costs),
        )
    )


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Formats a table."""
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


# By the name in the page: whose measurements, and how they are shown.
TABLES = {
    "solver": ("solver", solver),
    "loop": ("solver", loop),
    "scaling": ("scaling", scaling),
    "overhead": ("overhead", overhead),
    "monitors": ("monitors", monitors),
    "growth": ("growth", growth),
    "batches": ("batches", batches),
    "alignment": ("alignment", alignment),
    "curvature": ("curvature", curvature),
    "ensembles": ("ensembles", ensembles),
    "dynamics": ("dynamics", dynamics),
}


def rewritten(page: str, records: Mapping[str, Any]) -> str:
    """Replaces every table of a page.

    Args:
        page: Markdown with markers.
        records: the measurements by name of the benchmark.

    Returns:
        The page with the tables of these measurements.

    Raises:
        ValueError: if the page does not have each table once.
    """
    names = _TABLE.findall(page)
    shown = [name for name, (benchmark, _) in TABLES.items() if benchmark in records]
    if sorted(names) != sorted(shown):
        raise ValueError(
            f"the page has the tables {', '.join(names) or 'none'}, the results "
            f"{', '.join(sorted(shown)) or 'none'}; each must be there once, between "
            "<!-- table NAME --> and <!-- end -->."
        )

    def table(match: re.Match[str]) -> str:
        name = match["name"]
        benchmark, formatted = TABLES[name]
        return f"<!-- table {name} -->\n{formatted(records[benchmark])}\n<!-- end -->"

    return _TABLE.sub(table, page)


def measurements() -> dict[str, Any]:
    """Reads the committed measurements, by name."""
    return {file.stem: json.loads(file.read_text()) for file in sorted(RESULTS.glob("*.json"))}


def main() -> None:
    """Rewrites the page."""
    PAGE.write_text(rewritten(PAGE.read_text(), measurements()))


if __name__ == "__main__":
    main()
