"""The demo as a user runs it, on a cluster in a box and on real components."""

import asyncio
import contextlib
import os
import re
import shlex
import shutil
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
HOSTILE = {"PROMETHEUS_URL": "http://127.0.0.1:1", "DRY_RUN": "true", "MAX_CONCURRENT_MIGRATIONS": "0"}
"""Settings in the user's shell that must not reach the services."""


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


def command_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


def alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


@pytest.mark.parametrize("cluster", ["box", "real"])
@pytest.mark.timeout(300)
async def test_the_demo_makes_exactly_the_expected_moves_and_nothing_is_unsafe(cluster: str) -> None:
    if cluster == "real":
        require_real(*REAL)
    async with a_demo("--cluster", cluster, environment=HOSTILE) as process:
        out = await output_of(process)
    last = LAST.fullmatch(out.rstrip().splitlines()[-1])
    assert last is not None, out
    expected, completed, unsafe, _ = last.groups()
    assert (completed, unsafe, process.returncode) == (expected, "0", 0), out
    assert int(expected) >= 6
    for text in ("GetHeatScore", "PreviewPlan", "StartMigration", "WatchMigrations", "top", "explain"):
        assert text in out
    assert "\x1b[" not in out, "a pipe gets plain text"


async def lines_until(process: asyncio.subprocess.Process, text: str, seconds: float = DEADLINE_SECONDS) -> list[str]:
    """Read lines of its output up to the first with that text."""
    assert process.stdout is not None
    lines: list[str] = []
    async with asyncio.timeout(seconds):
        while not lines or text not in lines[-1]:
            line = await process.stdout.readline()
            assert line, "".join(lines)
            lines.append(line.decode())
    return lines


async def answer_to(command: str, *, wait_seconds: float = 20.0) -> tuple[int, str]:
    """Run a command line. One that goes on for ever is stopped after a moment; what it said by then counts."""
    argv = shlex.split(command)
    endless = argv[-1].endswith("/WatchMigrations")
    process = await asyncio.create_subprocess_exec(
        *argv, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    if endless:
        assert process.stdout is not None
        async with asyncio.timeout(wait_seconds):
            said = await process.stdout.readuntil(b'"synced": true')
        process.kill()
        await process.communicate()
        return 0, said.decode()
    async with asyncio.timeout(wait_seconds):
        out, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode()


async def test_every_command_that_the_kept_demo_prints_works_as_printed() -> None:
    require_real("grpcurl")
    async with a_demo("--keep") as process:
        lines = await lines_until(process, "demo: expected=")
        first = lines.index("to try\n") + 1
        commands = [line.strip() for line in lines[first : lines.index("\n", first)]]
        answers = {command: await answer_to(command) for command in commands}
        assert {command: answer for command, answer in answers.items() if answer[0] != 0} == {}
        process.send_signal(signal.SIGTERM)
        await output_of(process)
        assert process.returncode == 0

    def said(text: str) -> str:
        return next(answer for command, (_, answer) in answers.items() if text in command)

    assert len([command for command in commands if command.endswith(" list")]) == 3
    assert '"quality": "HEAT_QUALITY_OK"' in said("GetHeatScore")
    assert '"volume": "pvc-datalake"' in said("PreviewPlan")
    assert '"volume": "pvc-mail"' in said("StartMigration")
    assert '"MIGRATION_STATE_COMPLETED"' in said("WatchMigrations")
    assert "pvc-datalake" in said("couchestor top")
    assert "NoPoolWithSpace" in said("couchestor explain")
    assert "pvc-orders" in said("couchestor migrations")


async def test_a_service_that_dies_ends_the_demo_with_the_end_of_its_log() -> None:
    async with a_demo() as process:
        before = await lines_until(process, "ScalingUp")
        (scorer,) = [pid for pid in children_of(process.pid) if "scorer" in command_of(pid)]
        os.kill(scorer, signal.SIGKILL)
        out = "".join(before) + await output_of(process)
    assert process.returncode == 1
    log = re.search(r"demo: scorer ended by itself; its log (\S+) ends", out)
    assert log is not None, out
    shutil.rmtree(Path(log[1]).parent)
    assert '"service":"scorer"' in out


@pytest.mark.parametrize(
    ("number", "told"),
    [(signal.SIGKILL, "was killed (signal 9)"), (signal.SIGTERM, "was stopped")],
    ids=["KILL", "TERM"],
)
async def test_a_migrator_ended_in_the_middle_of_moves_is_started_again_and_finishes_them(
    number: signal.Signals, told: str
) -> None:
    async with a_demo("--keep") as process:
        before = await lines_until(process, "WaitingSync")
        (migrator,) = [pid for pid in children_of(process.pid) if "migrator" in command_of(pid)]
        os.kill(migrator, number)
        out = "".join(before + await lines_until(process, "demo: expected="))
        process.send_signal(signal.SIGTERM)
        await output_of(process)
    assert f"migrator {told}; starting it again" in out
    assert "completed=8 unsafe=0" in out, out
    assert process.returncode == 0


async def test_without_the_real_components_it_says_what_to_do(tmp_path: Path) -> None:
    bare = {"XDG_CACHE_HOME": str(tmp_path), "KUBEBUILDER_ASSETS": "", "PATH": "/nowhere"}
    async with a_demo("--cluster", "real", environment=bare) as process:
        out = await output_of(process)
    assert process.returncode == 1
    assert "make tools" in out
    assert "Traceback" not in out


async def test_an_interrupted_demo_stops_everything_that_it_started() -> None:
    async with a_demo("--keep") as process:
        await lines_until(process, "everything is up")
        children = children_of(process.pid)
        assert len(children) >= 3
        process.send_signal(signal.SIGINT)
        out = await output_of(process)
    assert process.returncode == 128 + signal.SIGINT, out
    assert "interrupted by SIGINT" in out
    assert not alive(children)
