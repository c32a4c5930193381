"""The spectral density by curvlinops, where torch and it are installed.

PyHessian 0.1 is no peer: it calls `torch.eig`, which torch no longer has.
"""

import importlib
import importlib.util
import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np


def curvlinops_versions() -> dict[str, str]:
    """Versions of torch and curvlinops; empty where either is missing."""
    if not all(map(importlib.util.find_spec, ("torch", "curvlinops"))):
        return {}
    from importlib import metadata

    return {name: metadata.version(name) for name in ("torch", "curvlinops-for-pytorch")}


def by_curvlinops(
    weights: list[jax.Array], inputs: jax.Array, labels: jax.Array, num_steps: int
) -> Callable[[], np.ndarray]:
    """All nodes of one probe of so many products, for the network of `benchmarks.curvature`.

    Its Lanczos does not re-orthogonalise, so it does less work per step and may find an eigenvalue
    more than once.

    Args:
        weights: of the network.
        inputs: of one batch.
        labels: of it.
        num_steps: products.

    Returns:
        A function that draws a vector and returns the nodes.
    """
    torch = importlib.import_module("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        curvlinops = importlib.import_module("curvlinops")
        spectrum = importlib.import_module("curvlinops.papyan2020traces.spectrum")
    layers: list[Any] = []
    for weight in weights:
        layer = torch.nn.Linear(*weight.shape, bias=False)
        layer.weight.data = torch.tensor(np.array(weight.T))
        layers += [layer, torch.nn.Tanh()]
    model = torch.nn.Sequential(*layers[:-1])
    batch = torch.tensor(np.array(inputs)), torch.tensor(np.array(labels, np.int64))
    operator = curvlinops.HessianLinearOperator(
        model,
        torch.nn.CrossEntropyLoss(),
        list(model.parameters()),
        [batch],
        check_deterministic=False,
    )
    return lambda: spectrum.fast_lanczos(operator, num_steps)[0].numpy()
