"""
Where the real programs are.

`tools/build.py` makes them and is the only one that knows their places; it is a script beside the packages (it runs
before there is a virtual environment), so it is loaded by its path and asked.
"""

import importlib.util
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

BUILD_SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "build.py"
_MODULE = "couchestor_tools_build"


class ToolMissingError(Exception):
    """A real program that this machine does not have (yet)."""


def find_tool(name: str) -> Path | None:
    """The program `name`, from KUBEBUILDER_ASSETS, from what `make tools` made, or for Prometheus from PATH.

    A name that the script does not know raises its BuildError, which lists those that it does.
    """
    return _finder()(name)


def tool(name: str) -> Path:
    """As `find_tool`, for who cannot go on without it. Raises ToolMissingError, which says what to do."""
    path = find_tool(name)
    if path is None:
        raise ToolMissingError(f"{name}: not on this machine; run `make tools`, or `tools/build.py --only {name}`")
    return path


@cache
def _finder() -> Callable[[str], Path | None]:
    spec = importlib.util.spec_from_file_location(_MODULE, BUILD_SCRIPT)
    if spec is None or spec.loader is None:
        raise ToolMissingError(f"{BUILD_SCRIPT}: cannot be loaded; the real programs need a checkout of the project")
    module = importlib.util.module_from_spec(spec)
    sys.modules[_MODULE] = module  # dataclasses look their own module up by name
    spec.loader.exec_module(module)
    finder: Callable[[str], Path | None] = module.find
    return finder
