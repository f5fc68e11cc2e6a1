"""
Every measurement of the project, one after the other: `make bench`.

A measurement is a module beside this one with a `main`; each tells what it measures against what, in the same run.
"""

from __future__ import annotations

import importlib
import pkgutil

import benchmarks


def main() -> None:
    """Run them by name."""
    for module in sorted(found.name for found in pkgutil.iter_modules(benchmarks.__path__) if found.name != "__main__"):
        print(f"== {module}")
        importlib.import_module(f"benchmarks.{module}").main()


if __name__ == "__main__":
    main()
