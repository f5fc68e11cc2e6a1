"""
How a service starts and ends, as the kubelet and a person at a terminal see it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

DEADLINE = 20.0
PROGRAM = """
import asyncio, sys
from common.config import SettingError
from common.logs import make_logger
from common.run import run_service

async def main(stop):
    log.info("up")
    match sys.argv[1]:
        case "orderly":
            await stop.wait()
            log.info("drained")
        case "slow":
            await stop.wait()
            try:
                await asyncio.sleep(3600)
            finally:
                log.info("cleaned")
        case "crash":
            raise OSError("disk full")
        case "wrong setting":
            raise SettingError("--metrics-addr :8080:\\nin use")
        case "wrong setting of a task":
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(stop.wait())
                tasks.create_task(complain())
        case "group":
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(stop.wait())
                tasks.create_task(fail())
        case "done":
            pass
        case "forgotten":
            asyncio.get_running_loop().call_soon(lambda: 1 / 0)
            await asyncio.sleep(0.05)

async def fail():
    raise KeyError("inner")

async def complain():
    raise SettingError("--metrics-addr :8080: in use")

log = make_logger("scorer", level="INFO", json=True)
sys.exit(run_service(main, log, prog="couchestor-scorer"))
"""


class Service:
    """The program above, running."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []
        self.complaint = ""
        """What it wrote to stderr; everything else it says is in the log."""

    async def until(self, event: str) -> None:
        assert self.process.stdout is not None
        async with asyncio.timeout(DEADLINE):
            while True:
                line = await self.process.stdout.readline()
                assert line, f"it ended without {event!r}: {self.lines}"
                self.lines.append(json.loads(line))
                if self.lines[-1]["event"] == event:
                    return

    async def end(self) -> tuple[int, list[str]]:
        """Its exit code, and the events it logged."""
        async with asyncio.timeout(DEADLINE):
            out, err = await self.process.communicate()
        self.complaint = err.decode()
        self.lines += [json.loads(line) for line in out.splitlines()]
        assert self.process.returncode is not None
        return self.process.returncode, [line["event"] for line in self.lines]


@contextlib.asynccontextmanager
async def running(behaviour: str) -> AsyncIterator[Service]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PROGRAM,
        behaviour,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        service = Service(process)
        yield service
        assert not service.complaint or service.process.returncode == 2, service.complaint
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_asks_for_an_orderly_end(number: signal.Signals) -> None:
    async with running("orderly") as service:
        await service.until("up")
        service.process.send_signal(number)
        assert await service.end() == (0, ["up", "stopping", "drained", "stopped"])


async def test_a_second_signal_cuts_it_short_and_still_cleans_up() -> None:
    async with running("slow") as service:
        await service.until("up")
        service.process.send_signal(signal.SIGTERM)
        await service.until("stopping")
        service.process.send_signal(signal.SIGTERM)
        code, events = await service.end()
        assert code == 128 + signal.SIGTERM
        assert events == ["up", "stopping", "second signal, ending at once", "cleaned"]


async def test_a_crash_is_logged_and_ends_with_1() -> None:
    async with running("crash") as service:
        code, events = await service.end()
        assert (code, events) == (1, ["up", "crashed"])
        assert service.lines[-1]["error"] == "OSError: disk full"
        assert "Traceback" in service.lines[-1]["exception"]


async def test_a_crash_of_one_task_of_several_is_logged_with_its_own_traceback() -> None:
    async with running("group") as service:
        code, events = await service.end()
        assert (code, events) == (1, ["up", "crashed"])
        assert service.lines[-1]["error"] == "KeyError: 'inner'"
        assert "in fail" in service.lines[-1]["exception"]


@pytest.mark.parametrize("behaviour", ["wrong setting", "wrong setting of a task"])
async def test_a_setting_that_cannot_be_followed_is_told_in_one_line_and_ends_with_2(behaviour: str) -> None:
    async with running(behaviour) as service:
        assert await service.end() == (2, ["up"])
        assert service.complaint == "couchestor-scorer: --metrics-addr :8080: in use\n"


async def test_an_end_by_itself_is_orderly() -> None:
    async with running("done") as service:
        assert await service.end() == (0, ["up", "stopped"])


async def test_what_fails_where_nobody_waits_for_it_is_logged() -> None:
    async with running("forgotten") as service:
        code, events = await service.end()
        assert (code, events) == (0, ["up", "unhandled in the event loop", "stopped"])
        assert "ZeroDivisionError" in service.lines[1]["exception"]
