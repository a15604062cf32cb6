"""Fuzz one target with atheris: `python -m tests.fuzz.fuzz TARGET [options]`; `make fuzz` runs them all."""

from __future__ import annotations

import sys

import atheris

# atheris instruments what Python's own finders load; the one of an editable install would go past it.
sys.meta_path[:] = [
    finder for finder in sys.meta_path if type(finder).__name__ != "ScikitBuildRedirectingFinder"
]
with atheris.instrument_imports(include=["reformer_export"]):
    from tests.fuzz.targets import TARGETS, run_target


def main() -> None:
    """Hand the bytes of libFuzzer to the target named on the command line."""
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"usage: python -m tests.fuzz.fuzz {'|'.join(TARGETS)} [corpus folder] [libFuzzer options]")
    name = sys.argv.pop(1)
    atheris.Setup(sys.argv, lambda data: run_target(name, data))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
