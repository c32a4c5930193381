"""What a monitor recorded, on the host: as arrays, as JSON lines, as TensorBoard event files."""

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from pfn_optax.paths import names_of
from pfn_optax.propagation.activation_monitor import ActivationMonitorState
from pfn_optax.propagation.gradients import real_layers
from pfn_optax.propagation.ring import order_of


@dataclass(frozen=True, eq=False)
class History:
    """Records in the order of time.

    Attributes:
        steps: i64[num_records].
        layers: the layers in the order of depth; of those in a loop one for each round,
            `"layers/up[0]"`.
        values: by name of the measure f[num_records, num_layers], NaN where a layer has none.
    """

    steps: np.ndarray
    layers: tuple[str, ...]
    values: Mapping[str, np.ndarray]


_MEASURES = ("gradient_norm", "parameter_norm", "update_ratio", "weight_rank", "spectral_norm")


def propagation_history(
    state: Any, params: Any = None, *, order: Sequence[str] | None = None
) -> History:
    """Reads the records of `propagation_monitor`.

    Args:
        state: an optimizer state with that of one monitor in it.
        params: the parameters, for the names of the layers; shapes are enough.
        order: the names instead, those given to the monitor.

    Returns:
        The `History`.

    Raises:
        ValueError: if there is no such state, or more than one, or the names are not as many as
            the layers recorded.

    Example:
        >>> import jax.numpy as jnp
        >>> from pfn_optax.propagation import propagation_history, propagation_monitor
        >>> monitor, params = propagation_monitor(every=1), {"Dense_0": {"kernel": jnp.ones(4)}}
        >>> _, state = monitor.update(params, monitor.init(params), params)
        >>> history = propagation_history(state, params)
        >>> print(history.steps, history.layers, history.values["gradient_norm"])
        [1] ('Dense_0',) [[2.]]
    """
    found = optax.tree.get_all_with_path(state, "propagation_steps")
    if len(found) != 1:
        raise ValueError(
            f"the state must hold that of one propagation_monitor, found {len(found)}: pass the "
            "part of it that does."
        )
    names = tuple(real_layers(params)) if order is None else tuple(order)

    def get(name: str) -> Any:
        return optax.tree.get(state, f"propagation_{name}")

    rings = {name: ring for name in _MEASURES if len(ring := get(name))}
    num_layers = rings["gradient_norm"].shape[-1]
    if len(names) != num_layers:
        raise ValueError(
            f"the monitor recorded {num_layers} layers, got {len(names)} names: give the params, "
            "or the order that it was made with."
        )
    rows = order_of(int(get("records")), len(get("steps")))
    return History(
        steps=np.asarray(get("steps"), np.int64)[rows],
        layers=names,
        values={name: np.asarray(ring)[rows] for name, ring in rings.items()},
    )


def activation_history(state: ActivationMonitorState, names: Sequence[str]) -> History:
    """Reads the records of an `ActivationMonitor`.

    Args:
        state: its state.
        names: its `names`, the order of depth (jit has sorted the state by the alphabet).

    Returns:
        The `History`; statistics are named by their path, `"value"` if there is only one.

    Raises:
        ValueError: if the names are not those of the layers recorded.
    """
    if set(names) != set(state.activation_values):
        raise ValueError(
            f"names must be those of the layers recorded, {', '.join(state.activation_values)}; "
            f"got {', '.join(names)}."
        )
    rows = order_of(int(state.activation_records), len(state.activation_steps))
    columns: dict[str, dict[str, np.ndarray]] = {}
    for name in names:
        for path, ring in jax.tree_util.tree_leaves_with_path(state.activation_values[name]):
            measure = "/".join(names_of(path)) or "value"
            values = np.asarray(ring)[rows]
            for index in itertools.product(*map(range, values.shape[1:])):
                suffix = f"[{','.join(map(str, index))}]" if index else ""
                columns.setdefault(name + suffix, {})[measure] = values[(slice(None), *index)]
    missing = np.full(len(rows), np.nan)
    measures = dict.fromkeys(measure for column in columns.values() for measure in column)
    return History(
        steps=np.asarray(state.activation_steps, np.int64)[rows],
        layers=tuple(columns),
        values={
            measure: np.stack([column.get(measure, missing) for column in columns.values()], axis=1)
            for measure in measures
        },
    )


def write_json_lines(history: History, file: str | Path) -> int:
    """Appends the records that a JSON lines file does not hold yet, one line for each.

    A line is `{"step": 50, "gradient_norm": {"Dense_0": 0.1, ...}, ...}`; NaN and infinity, which
    JSON lacks, are null. Steps up to the last in the file are taken to be there.

    Args:
        history: the records.
        file: where to; its folder must exist.

    Returns:
        The number of lines written.

    Raises:
        ValueError: if the file holds something else.
    """
    file = Path(file)
    lines = file.read_text().splitlines() if file.exists() else []
    try:
        last = max((int(json.loads(line)["step"]) for line in lines), default=-1)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file} is no JSON lines file of records: choose another.") from error
    fresh = [index for index, step in enumerate(history.steps) if step > last]
    with file.open("a") as stream:
        for index in fresh:
            record: dict[str, Any] = {"step": int(history.steps[index])}
            for name, values in history.values.items():
                numbers = map(float, values[index])
                record[name] = {
                    layer: number if math.isfinite(number) else None
                    for layer, number in zip(history.layers, numbers, strict=True)
                }
            stream.write(json.dumps(record, allow_nan=False) + "\n")
    return len(fresh)


def write_tensorboard(history: History, writer: Any, *, after: int = -1) -> int:
    """Writes the records as scalars `measure/layer` for TensorBoard.

    Args:
        history: the records.
        writer: a folder, for a new event file in it; or a `tensorboardX.SummaryWriter`.
        after: only steps behind this one, as what an earlier call returned.

    Returns:
        The last step written so far.

    Raises:
        ImportError: if a folder is given and tensorboardX is missing.
    """
    is_folder = isinstance(writer, (str, Path))
    if is_folder:
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise ImportError(
                "write_tensorboard needs tensorboardX: pip install tensorboardX."
            ) from error
        writer = SummaryWriter(str(writer))
    for index, step in enumerate(history.steps):
        if step > after:
            for name, values in history.values.items():
                for layer, value in zip(history.layers, values[index], strict=True):
                    writer.add_scalar(f"{name}/{layer}", float(value), int(step))
    if is_folder:
        writer.close()
    return max([after, *map(int, history.steps)])
