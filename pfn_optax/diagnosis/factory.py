"""What the command line diagnoses: a function of the user's that returns a training setup."""

import dataclasses
import importlib
import operator
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pfn_optax.diagnosis.arguments import is_optimizer
from pfn_optax.diagnosis.setup import TrainingSetup

_FIELDS = {field.name: field for field in dataclasses.fields(TrainingSetup)}
_NEEDED = [name for name, field in _FIELDS.items() if field.default is dataclasses.MISSING]
_IN_ORDER = ("loss", "params", "batch", "optimizer")
CONTRACT = (
    "a factory takes no arguments and returns a TrainingSetup, a mapping with its fields "
    f"({', '.join(_FIELDS)}), or a tuple (loss, params, batch) or (loss, params, batch, optimizer)"
)


class FactoryError(Exception):
    """What is named cannot be found or called, or does not return a setup."""


def setup_from(target: str) -> TrainingSetup:
    """Imports `module:factory` and calls it; the current folder is searched first.

    Raises:
        FactoryError: if there is no such module or factory, if one of them raises, which is then
            the cause of this error, or if what is returned is no training setup.
    """
    module_name, colon, path = target.partition(":")
    if not (module_name and colon and path):
        raise FactoryError(f"expected module:factory, as in train:make_setup, got {target!r}")
    factory = _attribute(_module(module_name), module_name, path)
    if not callable(factory):
        raise FactoryError(
            f"{target} is a {type(factory).__name__} and cannot be called; {CONTRACT}"
        )
    try:
        returned = factory()
    except Exception as error:
        raise FactoryError(f"{target}() raised {type(error).__name__}: {error}") from error
    return as_setup(returned, target)


def _module(name: str) -> Any:
    if "/" in name or name.endswith(".py"):
        dotted = name.removesuffix(".py").replace("/", ".").strip(".")
        raise FactoryError(f"{name!r} is a file; name the module, {dotted}")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # Not found may be the module itself, or one that it imports.
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise FactoryError(
                f"there is no module {error.name!r} in {here} or installed"
            ) from None
        raise FactoryError(f"{name} imports {error.name!r}, which is not installed") from error
    except Exception as error:
        raise FactoryError(f"importing {name} raised {type(error).__name__}: {error}") from error


def _attribute(module: Any, module_name: str, path: str) -> Any:
    try:
        return operator.attrgetter(path)(module)
    except AttributeError:
        found = [name for name, value in vars(module).items() if _is_own(module, name, value)]
        has = f"it has {', '.join(found)}" if found else "it has no functions"
        raise FactoryError(f"the module {module_name!r} has no {path!r}; {has}") from None


def _is_own(module: Any, name: str, value: Any) -> bool:
    is_its_own = getattr(value, "__module__", None) == module.__name__
    return callable(value) and is_its_own and not name.startswith("_")


def as_setup(returned: Any, target: str) -> TrainingSetup:
    """Takes what a factory returned for a training setup.

    Raises:
        FactoryError: if it is none; names the field.
    """
    fields: dict[str, Any]
    if isinstance(returned, TrainingSetup):
        fields = {name: getattr(returned, name) for name in _FIELDS}
    elif isinstance(returned, Mapping):
        fields = dict(returned)
    elif isinstance(returned, tuple) and len(returned) in (3, 4):
        fields = dict(zip(_IN_ORDER, returned, strict=False))
    else:
        of = f" of {len(returned)}" if isinstance(returned, tuple) else ""
        raise FactoryError(f"{target} returned a {type(returned).__name__}{of}; {CONTRACT}")
    if unknown := [str(name) for name in fields if name not in _FIELDS]:
        raise FactoryError(
            f"{target} returned the field {unknown[0]!r}, which a TrainingSetup has not; "
            f"it has {', '.join(_FIELDS)}"
        )
    if missing := [name for name in _NEEDED if name not in fields]:
        raise FactoryError(f"{target} returned no {missing[0]!r}; {CONTRACT}")
    _check_kinds(fields, target)
    return TrainingSetup(**fields)


def _check_kinds(fields: Mapping[str, Any], target: str) -> None:
    for name in ("loss", "model"):
        value = fields.get(name)
        if not callable(value) and (name == "loss" or value is not None):
            kind = type(value).__name__
            raise FactoryError(
                f"{target}: {name} must be a function of (params, batch), got {kind}"
            )
    optimizer = fields.get("optimizer")
    if optimizer is not None and not is_optimizer(optimizer):
        raise FactoryError(
            f"{target}: optimizer must be an optax transformation, as optax.adam(1e-3) is, or an "
            f"nnx.Optimizer, got {type(optimizer).__name__}"
        )
