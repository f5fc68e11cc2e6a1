"""What was started is stopped, whatever ends it; what does not become ready says why."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from sandbox.real.process import Process, ProcessError, Program, free_port

STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
)
OBEDIENT = "import time; print('up', flush=True); time.sleep(600)"


def a_program(
    directory: Path, code: str, *, ready: Callable[[], Awaitable[bool]] | None = None, deadline_seconds: float = 20.0
) -> Program:
    log = directory / "program.log"

    async def has_said_something() -> bool:
        return log.exists() and b"up" in log.read_bytes()

    return Program("program", (sys.executable, "-c", code), log, ready or has_said_something, deadline_seconds)


async def never() -> bool:
    return False


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_a_program_runs_inside_its_block_and_not_after_it(tmp_path: Path) -> None:
    async with Process(a_program(tmp_path, OBEDIENT)) as process:
        pid = process.pid
        assert pid is not None
        assert alive(pid)
    assert not alive(pid)
    assert process.pid is None


async def test_an_error_in_the_block_stops_the_program_and_goes_on(tmp_path: Path) -> None:
    pids = []

    async def fail() -> None:
        async with Process(a_program(tmp_path, OBEDIENT)) as process:
            pids.append(process.pid)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    (pid,) = pids
    assert pid is not None
    assert not alive(pid)


async def test_a_cancelled_block_stops_even_a_program_that_ignores_sigterm(tmp_path: Path) -> None:
    process = Process(a_program(tmp_path, STUBBORN))
    entered = asyncio.Event()

    async def hold() -> None:
        async with process:
            entered.set()
            await asyncio.Event().wait()

    holding = asyncio.create_task(hold())
    await entered.wait()
    pid = process.pid
    assert pid is not None
    holding.cancel()  # ends the block: SIGTERM, which it ignores
    await asyncio.sleep(0)
    holding.cancel()  # ends the patience
    with pytest.raises(asyncio.CancelledError):
        await holding
    assert not alive(pid)


async def test_a_program_that_ignores_sigterm_is_killed_after_the_grace(tmp_path: Path) -> None:
    process = Process(a_program(tmp_path, STUBBORN))
    await process.start()
    pid = process.pid
    assert pid is not None
    await process.stop(grace_seconds=0.1)
    assert not alive(pid)


async def test_a_start_that_is_cancelled_leaves_nothing_running(tmp_path: Path) -> None:
    asked = asyncio.Event()

    async def ready() -> bool:
        asked.set()
        return False

    process = Process(a_program(tmp_path, OBEDIENT, ready=ready))
    starting = asyncio.create_task(process.start())
    await asked.wait()
    pid = process.pid
    assert pid is not None
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert not alive(pid)


async def test_a_program_that_ends_before_it_is_ready_says_so_with_the_end_of_its_log(tmp_path: Path) -> None:
    process = Process(a_program(tmp_path, "import sys; sys.exit('address already in use')", ready=never))
    with pytest.raises(ProcessError, match=r"(?s)program: ended with 1 before it was ready.*address already in use"):
        await process.start()


async def test_a_program_that_never_becomes_ready_is_stopped_at_the_deadline(tmp_path: Path) -> None:
    process = Process(a_program(tmp_path, OBEDIENT, ready=never, deadline_seconds=0.2))
    with pytest.raises(ProcessError, match=r"program: not ready after 0\.2 s"):
        await process.start()
    assert process.pid is None


async def test_a_probe_that_cannot_connect_counts_as_not_ready_yet(tmp_path: Path) -> None:
    failures = [ConnectionRefusedError(), TimeoutError()]

    async def ready() -> bool:
        if failures:
            raise failures.pop()
        return True

    async with Process(a_program(tmp_path, OBEDIENT, ready=ready)) as process:
        assert process.pid is not None


async def test_a_probe_with_a_fault_of_its_own_stops_the_program_and_is_seen(tmp_path: Path) -> None:
    async def ready() -> bool:
        raise KeyError("token")

    process = Process(a_program(tmp_path, OBEDIENT, ready=ready))
    with pytest.raises(KeyError, match="token"):
        await process.start()
    assert process.pid is None


async def test_a_program_can_crash_and_start_again_but_not_run_twice(tmp_path: Path) -> None:
    async with Process(a_program(tmp_path, OBEDIENT)) as process:
        first = process.pid
        with pytest.raises(ProcessError, match="runs already"):
            await process.start()
        await process.kill()
        assert process.pid is None
        await process.start()
        assert process.pid not in {None, first}


async def test_a_frozen_program_can_still_be_stopped(tmp_path: Path) -> None:
    process = Process(a_program(tmp_path, OBEDIENT))
    await process.start()
    pid = process.pid
    assert pid is not None
    process.freeze()
    await process.stop(grace_seconds=20)
    assert not alive(pid)


@pytest.mark.skipif(not Path("/usr/bin/setpriv").exists(), reason="util-linux is not here to tie a child to its parent")
async def test_a_program_does_not_outlive_an_interpreter_that_was_killed(tmp_path: Path) -> None:
    parent = f"""
import asyncio, sys
from pathlib import Path
from tests.ground.test_processes import a_program, OBEDIENT
from sandbox.real.process import Process
async def main():
    async with Process(a_program(Path({str(tmp_path)!r}), OBEDIENT)) as process:
        print(process.pid, flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""
    running = await asyncio.create_subprocess_exec(sys.executable, "-c", parent, stdout=asyncio.subprocess.PIPE)
    assert running.stdout is not None
    child = int(await running.stdout.readline())
    assert alive(child)
    running.send_signal(signal.SIGKILL)
    await running.wait()
    async with asyncio.timeout(20):
        while alive(child) and not orphan_waits_to_be_reaped(child):  # noqa: ASYNC110 - it is no child of ours
            await asyncio.sleep(0.02)


def orphan_waits_to_be_reaped(pid: int) -> bool:
    """It is dead, and only its entry is left because nobody in this container collects orphans."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_a_free_port_can_be_listened_on_and_is_not_one_that_clients_are_given() -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)), socket.create_connection(("127.0.0.1", port)) as client:
        assert port < 32768
        assert client.getpeername()[1] == port
