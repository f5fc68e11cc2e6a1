"""
Pin every dependency with its hashes, for all platforms, without naming an index.

`uv` resolves; it is not a dependency of the product, so it is taken from PATH or from a throw-away environment.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OPTIONS = (
    "--quiet",
    "--universal",
    "--python-version",
    "3.11",
    "--generate-hashes",
    "--no-emit-index-url",
    "--no-header",
)


def uv(scratch: Path) -> str:
    """Return the path of a usable uv."""
    found = shutil.which("uv")
    if found:
        return found
    venv.create(scratch, with_pip=True)
    subprocess.run([scratch / "bin" / "pip", "install", "--quiet", "uv"], check=True)
    return str(scratch / "bin" / "uv")


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        command = [uv(Path(folder)), "pip", "compile", *OPTIONS, *sys.argv[1:], "pyproject.toml"]
        for lock, extra in (("requirements.lock", ()), ("requirements-dev.lock", ("--extra", "dev"))):
            subprocess.run([*command, *extra, "--output-file", lock], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
            print(f"wrote {lock}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
