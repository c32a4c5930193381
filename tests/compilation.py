"""Compiler options for what is compiled once per test and run a few times.

Compilation is most of the time of such tests, and code generation most of the compilation. The
program is the same: HLO passes, fusions and arithmetic stay, only LLVM has less to do. What is
about rounding, and what runs long, is compiled as users compile it.
"""

import contextlib
import os
from collections.abc import Iterator

import jax
import pytest


def _known(options: dict[str, bool | int]) -> dict[str, bool | int]:
    """The options, or none where this XLA does not have them."""
    try:
        jax.jit(lambda x: x, compiler_options=options)(0.0)
    except jax.errors.JaxRuntimeError as error:
        if "No such compile option" not in str(error):
            raise
        return {}
    return options


# XLA's older emitters write a fraction of the code of the newer ones, and LLVM optimises it as
# ever. The XLA of jax 0.12 has them no more.
OLDER_EMITTERS = _known({"xla_cpu_use_fusion_emitters": False})
# For two programs that must agree to the bit: the older emitters round where they fuse.
ORDINARY_CODE = dict.fromkeys(OLDER_EMITTERS, True)
# XLA cuts a program into parts that it compiles side by side, which is more work in all, and the
# tests' other process has the other core.
SHORT_CODE = OLDER_EMITTERS | _known({"xla_cpu_parallel_codegen_split_count": 1})

# A sixth of the time to compile (a third without the older emitters); the program runs some
# three times slower.
UNOPTIMIZED = SHORT_CODE | {"xla_backend_optimization_level": 0}

# The same for all that another process compiles.
UNOPTIMIZED_PROCESS = {
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "XLA_FLAGS": " ".join(
        [os.environ.get("XLA_FLAGS", "")]
        + [f"--{name}={str(value).lower()}" for name, value in SHORT_CODE.items()]
    ),
}


@contextlib.contextmanager
def short_code_everywhere() -> Iterator[None]:
    """`SHORT_CODE` also for what is compiled without options, as eager operations are.

    JAX has no switch for it, so this reaches inside, but only where XLA has the option.
    """
    if not SHORT_CODE:
        yield
        return
    from jax._src import compiler

    def get_compile_options(*args, **kwargs):
        options = given(*args, **kwargs)
        options.env_option_overrides = [*SHORT_CODE.items(), *options.env_option_overrides]
        return options

    given = compiler.get_compile_options
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiler, "get_compile_options", get_compile_options)
        yield
