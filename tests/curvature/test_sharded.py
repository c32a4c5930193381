"""Parameters sharded over eight devices: the same products, spectra and counts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.compilation import UNOPTIMIZED_PROCESS

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.slow
def test_sharded_equals_one_device():
    done = subprocess.run(
        [sys.executable, "-m", "tests.curvature.eight_devices"],
        cwd=ROOT,
        env=os.environ | UNOPTIMIZED_PROCESS | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["difference"] < 1e-5
    # Data-parallel: sums alone, at most one per leaf. What else moves is up to the compiler.
    [(kind, count)] = found["collectives"]["sharded batch"].items()
    assert kind == "all-reduce"
    assert 1 <= count <= len(found["is_sharding_kept"])
    assert found["collectives"]["sharded parameters"]
    one, eight = found["values"]
    np.testing.assert_allclose(eight, one, rtol=1e-4)
    assert found["counts"][0] == found["counts"][1]
