"""The picture of a barrier shows the curves it was given."""

import numpy as np
import pytest

from pfn_optax.align import Curve
from pfn_optax.drawing import draw_barrier

POINTS = np.linspace(0, 1, 3)


def curves(*losses):
    values = np.asarray(losses)
    return {
        "train": Curve(POINTS, values, {"accuracy": 1 - values / 10}),
        "test": Curve(POINTS, values + 1, {"accuracy": 0.9 - values / 10}),
    }


NAIVE, ALIGNED = curves(1.0, 3.0, 1.0), curves(1.0, 1.5, 1.0)


def lines(figure):
    return {line.get_label(): line for line in figure.axes[0].get_lines()}


@pytest.mark.parametrize("metric", [None, "accuracy"])
def test_every_curve_is_drawn(metric):
    figure = draw_barrier({"naive": NAIVE, "aligned": ALIGNED}, metric=metric)
    drawn = lines(figure)
    assert set(drawn) == {"naive, train", "naive, test", "aligned, train", "aligned, test"}
    for label, own in (("naive", NAIVE), ("aligned", ALIGNED)):
        for name, curve in own.items():
            expected = curve.metrics[metric] if metric else curve.losses
            np.testing.assert_array_equal(drawn[f"{label}, {name}"].get_ydata(), expected)
            np.testing.assert_array_equal(drawn[f"{label}, {name}"].get_xdata(), POINTS)
    # A line has one colour, a data set one stroke.
    styles = {label: (line.get_color(), line.get_linestyle()) for label, line in drawn.items()}
    assert len({colour for colour, _ in styles.values()}) == 2
    assert styles["naive, train"][0] == styles["naive, test"][0]
    assert styles["naive, train"][1] == styles["aligned, train"][1] != styles["naive, test"][1]
    figure.canvas.draw()


def test_axes_of_the_callers_are_used():
    from matplotlib.figure import Figure

    figure = Figure()
    axes = figure.add_subplot()
    assert draw_barrier({"naive": NAIVE}, axes=axes) is figure
    assert len(axes.get_lines()) == 2


def test_notebooks_show_it_before_pyplot_has_drawn():
    from IPython.core.formatters import DisplayFormatter

    shown, _ = DisplayFormatter().format(draw_barrier({"naive": NAIVE}))
    assert shown["image/png"].startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("given", "metric", "message"),
    [
        ({}, None, "curves is empty"),
        ({"naive": {}}, None, "curves is empty"),
        ({str(i): NAIVE for i in range(7)}, None, "got 7 on 2"),
        ({"naive": NAIVE}, "recall", "'naive' on 'train' has no metric 'recall'; it has accuracy"),
    ],
)
def test_bad_input_is_named(given, metric, message):
    with pytest.raises(ValueError, match=message):
        draw_barrier(given, metric=metric)
