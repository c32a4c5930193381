"""A figure that notebooks show, whether or not pyplot has drawn one before."""

import io

from matplotlib.figure import Figure


class ShownFigure(Figure):
    """A figure that is a picture wherever IPython displays it.

    Jupyter learns to show figures of matplotlib when pyplot opens its first one. Until then it
    prints their type and size, and ours are not opened by pyplot.

    Example:
        >>> from pfn_optax.drawing.shown import ShownFigure
        >>> ShownFigure(figsize=(1, 1))._repr_png_()[1:4]
        b'PNG'
    """

    def _repr_png_(self) -> bytes:
        """The figure as IPython shows it."""
        file = io.BytesIO()
        self.savefig(file, format="png")
        return file.getvalue()
