"""docs/troubleshooting.md quotes messages and statuses: they are those of the sources."""

import ast
import re
from pathlib import Path

import pytest

from pfn_optax import Status
from pfn_optax.align import AlignmentStatus
from pfn_optax.curvature import CurvatureStatus
from pfn_optax.dynamics import DynamicsStatus, GradientStatus
from pfn_optax.propagation import MeanFieldStatus

ROOT = Path(__file__).parent.parent
SYMPTOMS, MESSAGES = (ROOT / "docs/troubleshooting.md").read_text("utf-8").split("\n## Messages\n")
FIRST_CELL = re.compile(r"^\| `([^`]+)` \|", re.MULTILINE)
STATUSES = (
    Status,
    CurvatureStatus,
    DynamicsStatus,
    GradientStatus,
    MeanFieldStatus,
    AlignmentStatus,
)
# Nothing to mend.
_GOOD = {"CERTIFIED", "CONVERGED", "FINISHED", "OK", "FOUND"}


def texts():
    """Every text of the sources, with … for what is put in when the program runs."""
    for path in (
        path for name in ("pfn_optax", "experiments") for path in (ROOT / name).rglob("*.py")
    ):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value
            elif isinstance(node, ast.JoinedStr):
                parts = (getattr(part, "value", "…") for part in node.values)
                yield "".join(part if isinstance(part, str) else "…" for part in parts)


@pytest.fixture(scope="module")
def known():
    return "\0".join(texts())


def test_every_message_is_one_of_the_sources(known):
    quoted = FIRST_CELL.findall(MESSAGES)
    assert len(quoted) > 50
    missing = [
        message
        for message in quoted
        if not re.search("[^\0]*".join(map(re.escape, message.split("…"))), known)
    ]
    assert missing == []


def test_every_status_is_explained_and_none_is_stale():
    explained = [name for name in FIRST_CELL.findall(SYMPTOMS) if "Status." in name]
    wanted = [
        f"{kind.__name__}.{status.name}"
        for kind in STATUSES
        for status in kind
        if status.name not in _GOOD and (kind is Status or status.name != "WAITING")
    ]
    assert explained == wanted
