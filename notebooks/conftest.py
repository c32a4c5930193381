"""How the tests run notebooks (by nbmake): the quick setting, on the CPU, this package."""

import os
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent

# Kernels inherit these, and start in this folder.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if os.environ.setdefault("PFN_OPTAX_SETTING", "quick") == "quick":
    # So little is computed that most of the time goes into compilation.
    os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
_paths = (str(FOLDER.parent), os.environ.get("PYTHONPATH"))
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, _paths))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Each is a long test; these are started first."""
    for item in items:
        if item.path.suffix == ".ipynb":
            item.add_marker(pytest.mark.slow)
