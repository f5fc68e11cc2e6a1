"""A demo as a process of its own, as a user runs it."""

import asyncio
import contextlib
import os
import re
import shlex
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

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
