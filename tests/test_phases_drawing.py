"""The phase diagram shows the critical line, the phases and what was marked."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pfn_optax.drawing import draw_phase_diagram


def lines(figure):
    return {line.get_label(): line.get_xydata() for line in figure.axes[0].get_lines()}


def words(figure):
    return {text.get_text() for text in figure.axes[0].texts}


def test_tanh_on_axes_of_the_callers():
    from matplotlib.figure import Figure

    figure = Figure()
    axes = figure.add_subplot()
    marks = {"LeCun": (1, 0), "mine": (1.76, 0.05)}
    assert draw_phase_diagram(jnp.tanh, marks=marks, resolution=6, axes=axes) is figure
    drawn = lines(figure)
    for name, place in marks.items():
        np.testing.assert_array_equal(drawn[name], [place])
    line = drawn[r"critical, $\chi_1 = 1$"]
    np.testing.assert_allclose(line[[0, -1]], [[1.0, 0.0], [2.84317, 0.5]], atol=1e-4)
    assert words(figure) == {"ordered", "chaotic"}
    figure.canvas.draw()


def test_relu_has_one_critical_point_and_no_chaotic_phase():
    figure = draw_phase_diagram(jax.nn.relu, resolution=5)
    np.testing.assert_allclose(lines(figure)["critical point"], [[2.0, 0.0]], atol=1e-5)
    assert words(figure) == {"ordered", "variance grows\nwithout bound"}
    figure.canvas.draw()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight_variance": (2, 1)}, "weight_variance must be a range from 0 upwards, got 2 to 1"),
        ({"bias_variance": (-1, 1)}, "bias_variance must be a range"),
        ({"resolution": 3}, "resolution must be at least 4, got 3"),
        ({"marks": {str(n): (1, 0) for n in range(9)}}, "at most 8 marks .* got 9"),
    ],
)
def test_bad_input_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        draw_phase_diagram(jnp.tanh, **options)
