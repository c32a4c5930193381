"""The pictures of the study, in colours that are told apart with any colour vision."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from experiments.dynamics.mean_field import leading_exponents
from experiments.plots import save

# Okabe & Ito 2008.
_NETWORKS = {
    "tanh": ("#0072B2", "o"),
    "large tanh": ("#CC79A7", "D"),
    "driven tanh": ("#56B4E9", "s"),
    "GRU": ("#D55E00", "^"),
    "LSTM": ("#009E73", "v"),
}


def exponents(
    rows: Sequence[Mapping[str, Any]], sizes: tuple[int, int], drive: float, file: Path
) -> None:
    """Draws leading exponents, whole spectra, and dimension and entropy, against the gain.

    Args:
        rows: one per kind of network and gain.
        sizes: units of the networks, and of the large ones.
        drive: standard deviation of the inputs of the driven network.
        file: PNG to write.
    """
    figure = Figure(figsize=(15, 4.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    dense = np.linspace(min(row["gain"] for row in rows), max(row["gain"] for row in rows), 200)
    size, large = sizes
    labels = {
        "tanh": f"tanh, N = {size}",
        "large tanh": f"tanh, N = {large}",
        "driven tanh": f"tanh, N = {size}, input {drive:g}",
        "GRU": f"GRU, N = {size}",
        "LSTM": f"LSTM, N = {size}",
    }
    for name, (colour, marker) in _NETWORKS.items():
        own = [row for row in rows if row["network"] == name]
        if not own:
            continue
        gains = [row["gain"] for row in own]
        found = [row["mean_leading"] for row in own]
        is_alone = name.endswith("tanh")  # beside its mean field, which has the line
        _error_bars(left, gains, found, colour, marker, labels[name], is_alone=is_alone)
    for strength, style in ((0.0, "-"), (drive, "--")):
        curve = leading_exponents(dense, strength)
        label = f"mean field of tanh, input {strength:g}"
        left.plot(dense, curve, color="black", linewidth=1, linestyle=style, label=label)
    left.axhline(0, color="grey", linewidth=0.8)
    left.axvline(1, color="grey", linestyle=":", label="gain 1")
    left.set(xlabel="gain g", ylabel="leading exponent, nats per step", ylim=(-0.95, 0.55))
    left.legend(fontsize="small", loc="lower right")
    tanh = [row for row in rows if row["network"] == "tanh"]
    for place, row in enumerate(tanh):
        spectrum = np.asarray(row["mean_spectrum"])
        ranks = (np.arange(size) + 0.5) / size
        colour = colormaps["viridis"](0.95 * place / max(len(tanh) - 1, 1))
        middle.plot(ranks, spectrum, color=colour, label=f"{row['gain']:g}")
    middle.axhline(0, color="grey", linewidth=0.8)
    middle.set(xlabel="rank / N", ylabel="exponent, nats per step", ylim=(-4, 0.6))
    if tanh:
        middle.legend(title="gain of tanh", fontsize="small", ncols=2, loc="lower left")
    dimensions, entropies = (
        [row[name] for row in tanh] for name in ("dimension_per_unit", "entropy_per_unit")
    )
    gains = [row["gain"] for row in tanh]
    _error_bars(right, gains, dimensions, "#0072B2", "o", "Kaplan-Yorke dimension / N")
    scaled = [{name: 10 * value for name, value in one.items()} for one in entropies]
    _error_bars(right, gains, scaled, "#D55E00", "s", "10 x entropy bound / N (nats per step)")
    right.axvline(1, color="grey", linestyle=":")
    right.set(xlabel="gain g", ylabel="per unit")
    right.legend(fontsize="small", loc="upper left")
    right.set_ylim(bottom=-0.02)
    for axes in (left, middle, right):
        axes.grid(alpha=0.25)
    left.set_title("mean over networks, its 95% interval", fontsize="medium")
    middle.set_title(f"spectra of tanh, N = {size}, mean over networks", fontsize="medium")
    right.set_title(f"tanh, N = {size}, 95% interval", fontsize="medium")
    save(figure, file)


def _error_bars(
    axes: Any,
    x: Sequence[float],
    estimates: Sequence[Mapping[str, float]],
    colour: str,
    marker: str,
    label: str,
    *,
    is_alone: bool = False,
) -> None:
    """Draws means with their intervals, joined by a line unless they are to be alone."""
    means = np.asarray([one["mean"] for one in estimates])
    reach = np.asarray([one["high"] for one in estimates]) - means
    line = "none" if is_alone else "-"
    style = {"color": colour, "marker": marker, "markersize": 5, "capsize": 3, "linestyle": line}
    axes.errorbar(x, means, yerr=reach, label=label, **style)


_METHODS = {
    "backprop": ("#000000", "o"),
    "shadowing": ("#0072B2", "s"),
    "shadowing_unstable": ("#56B4E9", "D"),
    "kernel": ("#D55E00", "^"),
    "path_kernel": ("#009E73", "v"),
}
_LARGEST = 1e12  # of the vertical axis, where backpropagation has long left the others
_NO_MORE = 1e100  # what is larger, or overflowed, is drawn here: far above the axis


def horizons(systems: Mapping[str, Mapping[str, Any]], file: Path) -> None:
    """Draws norms of gradients against the horizon, a panel per system.

    Args:
        systems: for each its exponents, the truth and a row per method and horizon.
        file: PNG to write.
    """
    figure = Figure(figsize=(6.2 * len(systems), 5.2), layout="constrained")
    lines = {}
    for axes, (name, one) in zip(figure.subplots(1, len(systems)), systems.items(), strict=True):
        for method, (colour, marker) in _METHODS.items():
            own = [row for row in one["rows"] if row["method"] == method]
            if not own:
                continue
            times = np.asarray([row["time"] for row in own])
            norms = np.asarray([row["norm"] for row in own], float)
            norms = np.where(norms < _NO_MORE, norms, _NO_MORE)
            low, middle, high = np.quantile(norms, [0.0, 0.5, 1.0], axis=1)
            [lines[method]] = axes.plot(times, middle, color=colour, marker=marker)
            axes.fill_between(times, low, high, color=colour, alpha=0.13, linewidth=0)
            if method == "backprop":
                rate = one["exponents"][0]
                # Through the median of a horizon from which on there is growth.
                anchor = min(1, len(times) - 1)
                dense = np.geomspace(times[0], times[-1], 200)
                growth = np.log(middle[anchor]) + rate * (dense - times[anchor])
                [lines["exp(leading exponent x horizon)"]] = axes.plot(
                    dense,
                    np.exp(np.minimum(growth, np.log(_NO_MORE))),
                    color="grey",
                    linestyle="--",
                )
        if name == "Lorenz":  # one parameter: the norm is the size of the derivative
            [lines["difference of ensembles"]] = axes.plot(
                times[[0, -1]],
                2 * [abs(one["truth"]["mean"])],
                color="#CC79A7",
                linewidth=3,
                zorder=0,
            )
        axes.set(xscale="log", yscale="log", ylim=(1e-2, _LARGEST), xlabel="horizon")
        axes.grid(alpha=0.25)
    left, right = figure.axes
    left.set(title="Lorenz: mean of z by rho", xlabel="horizon, units of time")
    right.set(title="tanh network: mean square activity by the weights", xlabel="horizon, steps")
    left.set_ylabel("norm of the gradient: median, and range over seeds")
    figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=4)
    save(figure, file)
