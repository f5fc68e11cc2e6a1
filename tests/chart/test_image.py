"""The image is made of pinned parts, runs as nobody, and gets into its build all that the wheel is made of."""

import re
import subprocess
import tomllib

from tests.chart.chart import CHART

ROOT = CHART.parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def test_the_base_is_pinned_and_the_same_in_both_stages() -> None:
    bases = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert bases == ["python:3.11-slim"] * 2
    assert not re.search(r"https?://|curl|wget|apt-get", DOCKERFILE)


def test_every_install_is_locked_or_offline() -> None:
    installs = re.findall(r"pip (?:install|wheel)[^\n&]*", DOCKERFILE)
    assert len(installs) == 4
    assert all("--require-hashes" in one or "--no-index" in one for one in installs), installs


def test_it_runs_as_a_number_that_is_not_root() -> None:
    (user,) = re.findall(r"^USER (\d+):\d+$", DOCKERFILE, re.MULTILINE)
    assert int(user) > 1000
    helpers = (CHART / "templates" / "_helpers.tpl").read_text()
    assert f"runAsUser: {user}\n" in helpers


def test_the_part_of_the_lock_that_makes_the_wheel_is_cut_out_whole() -> None:
    (program,) = re.findall(r"awk '([^']+)'", DOCKERFILE)
    ran = subprocess.run(
        ["awk", program, "requirements-dev.lock"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30
    )
    wanted = set(re.findall(r"\(([a-z|-]+)\)", program)[0].split("|"))
    blocks = re.split(r"^(?=[a-z])", ran.stdout, flags=re.MULTILINE)[1:]
    assert {block.partition("==")[0] for block in blocks} == wanted
    assert all("--hash=sha256:" in block for block in blocks)


def test_the_build_sees_every_package_of_the_wheel() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {path.partition("/")[0] for path in project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]}
    admitted = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert packages | {"LICENSE", "README.md", "pyproject.toml"} <= admitted
    assert not {"tests", "sandbox", "benchmarks", ".git"} & admitted
