"""The demo as a user runs it, on a cluster in a box and on real components."""

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from tests.real import require_real

ROOT = Path(__file__).resolve().parents[2]
LAST = re.compile(r"demo: expected=(\d+) completed=(\d+) unsafe=(\d+) elapsed=([\d.]+)s")
REAL = ("kube-apiserver", "etcd", "prometheus")
DEADLINE_SECONDS = 200.0


@contextlib.asynccontextmanager
async def a_demo(
    *arguments: str, environment: Mapping[str, str] | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    """The demo as a process of its own; it is stopped, and nothing it started is left, whatever happens."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "sandbox.demo",
        *arguments,
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            await process.communicate()


async def output_of(process: asyncio.subprocess.Process) -> str:
    async with asyncio.timeout(DEADLINE_SECONDS):
        out, _ = await process.communicate()
    return out.decode()


def children_of(pid: int) -> list[int]:
    """Processes of this machine whose parent it is."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError, IndexError):
            stat = (entry / "stat").read_text()
            if int(stat.rpartition(")")[2].split()[1]) == pid:
                found.append(int(entry.name))
    return found


def alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


@pytest.mark.parametrize("cluster", ["box", "real"])
@pytest.mark.timeout(300)
async def test_the_demo_makes_exactly_the_expected_moves_and_nothing_is_unsafe(cluster: str) -> None:
    if cluster == "real":
        require_real(*REAL)
    async with a_demo("--cluster", cluster) as process:
        out = await output_of(process)
    last = LAST.fullmatch(out.rstrip().splitlines()[-1])
    assert last is not None, out
    expected, completed, unsafe, _ = last.groups()
    assert (completed, unsafe, process.returncode) == (expected, "0", 0), out
    assert int(expected) >= 6
    for text in ("GetHeatScore", "PreviewPlan", "StartMigration", "WatchMigrations", "top", "explain"):
        assert text in out
    assert "\x1b[" not in out, "a pipe gets plain text"


async def test_settings_of_the_users_shell_do_not_reach_the_services() -> None:
    hostile = {"PROMETHEUS_URL": "http://127.0.0.1:1", "DRY_RUN": "true", "MAX_CONCURRENT_MIGRATIONS": "0"}
    async with a_demo(environment=hostile) as process:
        out = await output_of(process)
    assert process.returncode == 0, out


async def test_an_interrupted_demo_stops_everything_that_it_started() -> None:
    async with a_demo("--keep") as process:
        assert process.stdout is not None
        async with asyncio.timeout(60):
            while b"everything is up" not in (line := await process.stdout.readline()):
                assert line, "it ended before it was up"
        children = children_of(process.pid)
        assert len(children) >= 3
        process.send_signal(signal.SIGINT)
        out = await output_of(process)
    assert process.returncode == 128 + signal.SIGINT, out
    assert "interrupted by SIGINT" in out
    assert not alive(children)
