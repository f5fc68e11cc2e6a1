"""
Make the Python stubs from protos/, or check that the committed ones are what the protos say.

The stubs are committed so that nobody needs a compiler to run or read the code; the check keeps them true.
"""

from __future__ import annotations

import argparse
import filecmp
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PROTOS = Path(__file__).resolve().parent.parent / "protos"


def generate(out: Path) -> None:
    """Write every stub below `out`; raise CalledProcessError where protoc refuses."""
    from grpc_tools import protoc

    include = Path(protoc.__file__).parent / "_proto"
    scripts = Path(sys.executable).parent
    command = [
        sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}", f"-I{include}",
        f"--plugin=protoc-gen-mypy={scripts / 'protoc-gen-mypy'}",
        f"--plugin=protoc-gen-mypy_grpc={scripts / 'protoc-gen-mypy_grpc'}",
        f"--python_out={out}", f"--grpc_python_out={out}", f"--mypy_out=quiet:{out}", f"--mypy_grpc_out=quiet:{out}",
        *sorted(str(path) for path in PROTOS.rglob("*.proto")),
    ]  # fmt: skip
    subprocess.run(command, check=True)
    for folder in {path.parent for path in out.rglob("*_pb2.py")}:
        (folder / "__init__.py").touch()
        for parent in folder.relative_to(out).parents:
            (out / parent / "__init__.py").touch()
    (out / "__init__.py").unlink(missing_ok=True)
    (out / "couchestor" / "py.typed").touch()


def stale(fresh: Path) -> list[str]:
    """Name each stub that differs from the committed one, is missing there, or has no proto any more."""

    def made(root: Path) -> set[Path]:
        return {path.relative_to(root) for path in root.rglob("*_pb2*.py*") if "__pycache__" not in path.parts}

    wanted, present = made(fresh), made(PROTOS)
    changed = {name for name in wanted & present if not filecmp.cmp(fresh / name, PROTOS / name, shallow=False)}
    return sorted(str(name) for name in changed | (wanted ^ present))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if a committed stub is stale")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        generate(out)
        if not arguments.check:
            shutil.copytree(out, PROTOS, dirs_exist_ok=True)
            return 0
        names = stale(out)
    for name in names:
        print(f"protos/{name} is stale: run `make proto` and commit the result", file=sys.stderr)
    if not names:
        print("stubs are fresh")
    return 1 if names else 0


if __name__ == "__main__":
    sys.exit(main())
