"""The picture as an interactive HTML page."""

import dataclasses
import html
import json
import math
from importlib import resources
from string import Template
from typing import Any

from pfn_optax.drawing.picture import Picture, picture_of
from pfn_optax.report import cut_report, snapshot


def flow_html(state: Any, params: Any, *, fold: bool = True, **layout_options: Any) -> str:
    """Draws the flow network at the last diagnosis as a page that needs nothing but a browser.

    The same picture as `draw_flow`, and the table of `cut_report` under it. Pointing at a band
    shows what is known of it; a click unfolds a folded module, and a click on the shaded area of a
    module folds it.

    Args:
        state: an optimizer state with a `PFNState` somewhere in it.
        params: the parameter tree; only names and shapes are read.
        fold: False begins with every layer and, of a unit graph, every group of units.
        **layout_options: `block_size`, `num_blocks`, `output_axis`, `capacity`, `graph`, as given
            to `pfn`.

    Returns:
        The page, self-contained: `Path("flow.html").write_text(flow_html(...), "utf-8")`.

    Raises:
        ValueError: if no single `PFNState` is found, or it does not fit the parameters or options.

    Example:
        >>> import jax.numpy as jnp
        >>> from pfn_optax import pfn
        >>> from pfn_optax.drawing import flow_html
        >>> optimizer = pfn(capacity="norm", every=1)
        >>> params = {"layer0": {"w": jnp.ones((3, 4))}, "layer1": {"w": jnp.ones((4, 1))}}
        >>> _, state = optimizer.update(params, optimizer.init(params), params)
        >>> flow_html(state, params).splitlines()[0]
        '<!doctype html>'
    """
    picture = picture_of(snapshot(state, params, **layout_options), fold=fold)
    report = cut_report(state, params, **layout_options)
    template = resources.files("pfn_optax.drawing").joinpath("page.html").read_text("utf-8")
    return Template(template).substitute(
        summary=html.escape(report.summary),
        # Names may hold "</script>"; within a JSON string "<" may be written as its code.
        picture=json.dumps(_as_json(picture), allow_nan=False).replace("<", "\\u003c"),
        report=report._repr_html_(),
    )


def _as_json(picture: Picture) -> dict[str, Any]:
    bands = []
    for index, band in enumerate(picture.bands):
        fields = dataclasses.asdict(band) | {
            "label": picture.label(index),
            "members": sorted(band.members),
            "modules_around": picture.modules_around(index),
        }
        is_number = {name: isinstance(value, float) for name, value in fields.items()}
        bands.append(
            {
                name: None if is_number[name] and not math.isfinite(value) else value
                for name, value in fields.items()
            }
        )
    return {
        "bands": bands,
        "modules": picture.modules,
        "folded": sorted(picture.folded),
        "depths": picture.depths,
        "lanes": picture.lanes,
        "source": picture.source,
        "sink": picture.sink,
    }
