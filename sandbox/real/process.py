"""
One program, running on loopback for as long as somebody holds it.

A test or a demo that leaves an etcd behind spoils the next one, so the rule is simple: what was started is stopped,
whatever ends the block (return, error, cancellation), by its own pid and no other. Even where this interpreter is
killed and can do nothing any more, the kernel ends the child, where util-linux is there to ask it for that.
"""

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import aiohttp

POLL_SECONDS = 0.05
LAST_BYTES = 2000
# Below the range from which kernels take ports for outgoing connections (32768 on Linux, 49152 elsewhere). A port
# from that range may be taken by any client while a server is down, and the server could then not start again.
PORTS = range(18000, 32000)
_GIVEN: set[int] = set()

Probe = Callable[[], Awaitable[bool]]


class ProcessError(Exception):
    """A program that did not become ready: which, why, and the end of its log."""


@dataclass(frozen=True, slots=True)
class Program:
    """What to run, how to know that it is ready, and for how long to wait for that."""

    name: str
    argv: tuple[str, ...]
    log: Path  # standard output and error are appended here
    ready: Probe  # asked every 50 ms until it says yes; it may fail, which counts as no only if it is an OSError
    deadline_seconds: float = 30.0
    environment: Mapping[str, str] | None = None  # in place of this process's own


class Process:
    """A program that can be started, stopped, killed and started again. `async with` starts it and always stops it."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._running: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        """Its process id while it runs, else None."""
        return self._running.pid if self._running is not None and self._running.returncode is None else None

    @property
    def exit_code(self) -> int | None:
        """What it ended with, minus the signal's number if a signal ended it; None while it runs or never ran."""
        return self._running.returncode if self._running is not None else None

    async def start(self) -> None:
        """Start it and wait until it is ready. Raises ProcessError, with nothing left running."""
        if self.pid is not None:
            raise ProcessError(f"{self.program.name}: runs already with pid {self.pid}; stop it first")
        self.program.log.parent.mkdir(parents=True, exist_ok=True)
        with self.program.log.open("ab") as log:
            self._running = await asyncio.create_subprocess_exec(
                *_dies_with_parent(),
                *self.program.argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=asyncio.subprocess.STDOUT,
                env=self.program.environment,
                start_new_session=True,  # Ctrl-C in a terminal is for us; we then stop it in our own order
            )
        try:
            async with asyncio.timeout(self.program.deadline_seconds):
                await self._until_ready(self._running)
        except TimeoutError:
            await self.kill()
            raise ProcessError(self._failure(f"not ready after {self.program.deadline_seconds:g} s")) from None
        except BaseException:
            await self.kill()
            raise

    async def stop(self, grace_seconds: float = 10.0) -> None:
        """End it with SIGTERM, after the grace with SIGKILL. Does nothing to one that does not run."""
        if self._running is None:
            return
        self._signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(grace_seconds):
                await self._running.wait()
        except TimeoutError:
            await self.kill()
        except BaseException:  # cancelled: no more patience, but it is not left behind
            await self.kill()
            raise

    async def kill(self) -> None:
        """End it with SIGKILL, as a crash would, and wait until it is gone."""
        if self._running is None:
            return
        self._signal(signal.SIGKILL)
        # A killed process is gone within moments, so a cancellation that arrives meanwhile can wait for that.
        gone = asyncio.ensure_future(self._running.wait())
        try:
            await asyncio.shield(gone)
        except asyncio.CancelledError:
            await gone
            raise

    def freeze(self) -> None:
        """Halt it where it is: it keeps its connections and answers none, as a machine does that swaps to death."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen one run on."""
        self._signal(signal.SIGCONT)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def last_words(self) -> str:
        """The end of its log, for a person."""
        try:
            with self.program.log.open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - LAST_BYTES))
                return log.read().decode(errors="replace").strip()
        except OSError:
            return ""

    async def _until_ready(self, running: asyncio.subprocess.Process) -> None:
        while running.returncode is None:
            with contextlib.suppress(OSError):
                if await self.program.ready():
                    return
            await asyncio.sleep(POLL_SECONDS)
        raise ProcessError(self._failure(f"ended with {running.returncode} before it was ready"))

    def _failure(self, what: str) -> str:
        return f"{self.program.name}: {what}; its log {self.program.log} ends:\n{self.last_words()}"

    def _signal(self, number: signal.Signals) -> None:
        if self._running is not None and self._running.returncode is None:
            with contextlib.suppress(ProcessLookupError):  # it ended by itself a moment ago
                self._running.send_signal(number)
                if number is signal.SIGTERM:
                    self._running.send_signal(signal.SIGCONT)  # a frozen one would not see it


def free_port() -> int:
    """
    A TCP port on 127.0.0.1 that nobody listens on, for a server that is to keep it when it starts again.

    No port is given out twice: whoever got it first may not listen on it yet, or not at this moment.
    """
    for _ in range(200):
        port = secrets.choice(PORTS)
        if port in _GIVEN:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            _GIVEN.add(port)
            return port
    raise OSError(f"no free port between {PORTS.start} and {PORTS.stop - 1} on 127.0.0.1; stop what listens there")


async def answers(url: str, *, token: str | None = None, trust: ssl.SSLContext | None = None) -> bool:
    """Whether a GET of `url` is answered with 200 within two seconds. Raises OSError where nobody listens."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    timeout = aiohttp.ClientTimeout(total=2.0)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, headers=headers) as session,
            session.get(url, ssl=trust if trust is not None else True) as answer,
        ):
            return answer.status == 200
    except aiohttp.ClientError as error:
        raise OSError(str(error)) from error


def _dies_with_parent() -> tuple[str, ...]:
    """A prefix that has the kernel end the program when this interpreter is gone; empty where that is not to be had."""
    setpriv = shutil.which("setpriv")
    return (setpriv, "--pdeathsig", "KILL", "--") if setpriv else ()
