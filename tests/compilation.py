"""Compiler options for what is compiled once per test and run a few times.

Compilation is most of the time of such tests, and code generation most of the compilation. The
program is the same: HLO passes, fusions and arithmetic stay, only LLVM has less to do. What is
about rounding, and what runs long, is compiled as users compile it.
"""

import jax


def _known(options: dict[str, bool]) -> dict[str, bool]:
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
SHORT_CODE = _known({"xla_cpu_use_fusion_emitters": False})

# A sixth of the time to compile (a third without the older emitters); the program runs some
# three times slower.
UNOPTIMIZED = SHORT_CODE | {"xla_backend_optimization_level": 0}
