"""Diagnoses written by hand, to be shown."""

import math

from pfn_optax.diagnosis import (
    Cause,
    CheckRecord,
    Diagnosis,
    Evidence,
    Finding,
    LayerProfile,
    Severity,
)

HOSTILE = (
    "</script><img src=x onerror=\"document.title='owned'\">",
    "$\\frac{1}{0}$ $title ${style}",
    "[red]markup[/red] [link=file:///]x[/link]",
    "two\nlines\r\x1b[31mred\x07",
    "右から‮左へ/층/слой/é",
    "module/" * 60 + "kernel",
    "-->]]>&lt;'\"`a`",
    "",
)


def layer(index, count, name=None):
    depth = (count - index) / count
    return LayerProfile(
        name or f"blocks/{index}/dense",
        num_params=4160,
        width=64,
        parameter_norm=8.0,
        gradient_norm=10.0 ** (-9 * depth),
        update_ratio=10.0 ** (-9 * depth - 2),
        mean_square=0.5**index,
        gain=0.5,
        activation_rank=1 + 20 / (1 + index),
        mean_cosine=1 - 0.5**index,
        dead_units=0.9 if index == 3 else 0.05,
        saturated_share=0.0,
        backward_norm=10.0 ** (-9 * depth - 1),
        capacity=float(index + 1),
        is_in_cut=index == 0,
    )


def sick(count=12):
    names = tuple(f"blocks/{index}/dense" for index in range(count))
    return Diagnosis(
        findings=(
            Finding(
                Cause.INIT_TOO_SMALL,
                Severity.CRITICAL,
                "The weights halve the signal from layer to layer: what reaches the loss no longer "
                "depends on the data.",
                "draw the weights with a standard deviation of 0.18 in place of 0.125, as "
                "`critical_init` does, or put a norm layer before each activation",
                (
                    Evidence("mean square kept per layer", 0.5, 0.8),
                    Evidence("mean square at the last layer", 0.5 ** (count - 1), 1e-3),
                    Evidence("time to a fixed point", 3.0, unit="layers"),
                ),
            ),
            Finding(
                Cause.DEAD_UNITS,
                Severity.WARNING,
                "90% of the units of blocks/3/dense are zero for every example.",
                "lower the biases of blocks/3/dense, or use `nnx.leaky_relu`",
                (Evidence("share of dead units", 0.9, 0.5),),
                ("blocks/3/dense",),
            ),
            Finding(
                Cause.BOTTLENECK,
                Severity.NOTE,
                "The minimum cut goes through blocks/0/dense.",
                "widen it to 128 units",
                (Evidence("rank lost", 3.0, 3.0),),
                names[:1],
            ),
            Finding(
                Cause.VANISHING_GRADIENT,
                Severity.CRITICAL,
                "The gradient is 1e-9 of what it is at the loss when it reaches the first layer.",
                "mend the initialisation",
                (Evidence("gradient at the first layer over the last", 1e-9, 1e-4),),
                names[: count - 2],
                follows_from=Cause.INIT_TOO_SMALL,
            ),
        ),
        layers=tuple(layer(index, count) for index in range(count)),
        measures={"loss": 2.302, "gradient_norm": 1.25e-3, "sharpness": 12345.6},
        checks=(
            CheckRecord("nonfinite", 0.1),
            CheckRecord("init_scale", 1.25),
            CheckRecord("sharpness", 0.0, "would take some 40 s, and 3 s are left of max_seconds"),
        ),
        num_params=49_920,
        seconds=12.34,
    )


def healthy():
    return Diagnosis(
        (),
        (LayerProfile("head", 10, width=2),),
        {"loss": 0.7},
        (
            CheckRecord("nonfinite", 0.1),
            CheckRecord("chaos", 0.0, "the data is of integers", applies=False),
        ),
        10,
    )


def empty():
    return Diagnosis((), ())


def broken():
    """Numbers that are not finite, wherever one can be."""
    values = (math.nan, math.inf, -math.inf, 0.0, 1.0, -1.0)
    layers = tuple(
        LayerProfile(f"layer{index}", 1, gradient_norm=value, dead_units=value, capacity=value)
        for index, value in enumerate(values)
    )
    evidence = tuple(Evidence("found", v, limit) for v in values for limit in (None, *values))
    finding = Finding(Cause.NONFINITE, Severity.CRITICAL, "NaN", "mend it", evidence, ("layer0",))
    return Diagnosis((finding,), layers, {"loss": math.nan, "top": math.inf}, seconds=1.0)


def hostile():
    findings = tuple(
        Finding(
            Cause.NONFINITE,
            level,
            f"NaN in {name}",
            f"mend {name}",
            (Evidence(name, 2.0, 1.0, name),),
            (name, *HOSTILE),
        )
        for level, name in zip(sorted(Severity) * 3, HOSTILE, strict=False)
    )
    layers = tuple(layer(index, len(HOSTILE), name) for index, name in enumerate(HOSTILE))
    checks = tuple(CheckRecord(name, 1.0, name, n % 2 == 0) for n, name in enumerate(HOSTILE))
    return Diagnosis(findings, layers, dict.fromkeys(HOSTILE, 1.0), checks, 1, 1.0)


ALL = {
    "sick": sick(),
    "deep": sick(300),
    "healthy": healthy(),
    "empty": empty(),
    "broken": broken(),
    "hostile": hostile(),
}
