"""Print the lower bounds of the declared JAX, Optax, Flax and NumPy as pip constraints."""

import re
import tomllib
from pathlib import Path

PACKAGES = ("jax", "numpy", "optax", "flax")

project = tomllib.loads(Path("pyproject.toml").read_text("utf-8"))["project"]
declared = [*project["dependencies"], *project["optional-dependencies"]["flax"]]
bounds = dict(re.fullmatch(r"([\w-]+)>=([\w.]+)", one).groups() for one in declared)
bounds["jaxlib"] = bounds["jax"]
print("\n".join(f"{name}=={bounds[name]}" for name in (*PACKAGES, "jaxlib")))
