"""Compiler options for what is compiled once per test and run a few times.

Compilation is most of the time of such tests, and code generation most of the compilation. The
program is the same: HLO passes, fusions and arithmetic stay, only LLVM has less to do. What is
about rounding, and what runs long, is compiled as users compile it.
"""

# XLA's older emitters write a fraction of the code of the newer ones; LLVM optimises it as ever.
SHORT_CODE = {"xla_cpu_use_fusion_emitters": False}

# A sixth of the time to compile; the program runs some three times slower.
UNOPTIMIZED = SHORT_CODE | {"xla_backend_optimization_level": 0}
