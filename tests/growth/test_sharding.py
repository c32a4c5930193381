"""Parameters that several devices share stay shared as they were."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def test_shardings_stay():
    done = subprocess.run(
        [sys.executable, "-m", "tests.growth.sharded"],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["is_same"]
    assert found["kept"]
    assert "axis 1 of in would have 9 entries, which the 4 devices" in found["error"]
    assert "a multiple of 4" in found["error"]
    assert found["grown"] == {"hidden": 4}
    assert found["is_shared"]
    assert "axis 1 of in would have 10 entries, which the 4 devices" in found["refused"]
    assert found["is_unchanged"]
