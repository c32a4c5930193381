"""Command line: `python -m pfn_optax diagnose module:factory`."""

import sys

_EXTRA = ("tyro", "rich")  # some versions of the one need the other


def main() -> int:
    """Runs the command line, or says what it lacks.

    Returns:
        The exit code.
    """
    try:
        from pfn_optax.diagnosis.command import main as run
    except ModuleNotFoundError as error:
        if error.name not in _EXTRA:
            raise
        print(
            f"error: the command line needs {error.name}: pip install 'pfn_optax[diagnosis]'",
            file=sys.stderr,
        )
        return 2
    return run()


if __name__ == "__main__":
    sys.exit(main())
