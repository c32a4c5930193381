"""What every benchmark's JSON says of where it was measured, and how it is written."""

import json
import platform
from pathlib import Path
from typing import Any

import jax


def environment() -> dict[str, str]:
    """Device and versions."""
    return {
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "python": platform.python_version(),
    }


def write(record: Any, file: Path | None) -> None:
    """Writes a record, if a file is given."""
    if file:
        file.write_text(json.dumps(record, indent=2) + "\n")
