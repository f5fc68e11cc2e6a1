"""
A person at a terminal who types a command, and the service at the other end, both played by a test.

The command runs in a thread of its own on grpcio-testing's channel; the test takes each call from the channel, looks
at what was asked, and answers.
"""

import argparse
import io
import random
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import grpc
import grpc_testing
from couchestor.migrator.v1 import migrator_pb2
from couchestor.planner.v1 import planner_pb2
from couchestor.scorer.v1 import scorer_pb2
from google.protobuf.message import Message
from rich.console import Console

from cli.__main__ import parser, run
from cli.services import Service
from cli.session import Session

NOW = datetime(2026, 2, 2, 10, 30, tzinfo=UTC)
SERVICES = {
    "scorer": scorer_pb2.DESCRIPTOR.services_by_name["ScorerService"],
    "planner": planner_pb2.DESCRIPTOR.services_by_name["PlannerService"],
    "migrator": migrator_pb2.DESCRIPTOR.services_by_name["MigratorService"],
}


class Paper(io.BytesIO):
    """What is written to, and can be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self._written = threading.Condition()

    def write(self, data: Any) -> int:
        with self._written:
            count = super().write(data)
            self._written.notify_all()
            return count

    def wait_for(self, text: bytes, seconds: float) -> bool:
        """Wait until the text was written; False if it was not in that time."""
        with self._written:
            return self._written.wait_for(lambda: text in self.getvalue(), seconds)


class FixedClock:
    """A clock that stands still."""

    def now(self) -> datetime:
        return NOW

    def monotonic(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        raise AssertionError(f"the command slept {seconds} s")


@dataclass
class Desk:
    """One screen, one keyboard, one service."""

    width: int = 200
    terminal: bool = False
    encoding: str = "utf-8"
    pauses: list[float] = field(default_factory=list)
    connected_to: list[str] = field(default_factory=list)
    during_pause: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self.channel: Any = grpc_testing.channel(list(SERVICES.values()), grpc_testing.strict_real_time())
        self._out, self._err = self._stream(), self._stream()
        self._executor = ThreadPoolExecutor(1)

    def type(self, *argv: str) -> "Future[int]":
        """Type a command; the result is its exit code."""
        args: argparse.Namespace = parser().parse_args(argv)
        session = Session(
            screen=self._console(self._out),
            complaints=self._console(self._err),
            connect=self._connect,
            clock=FixedClock(),
            rng=random.Random(7),
            pause=self._pause,
            deadline_seconds=args.deadline,
            json=args.json,
        )
        return self._executor.submit(run, session, args, "localhost:1")

    def take(self, service: str, method: str) -> tuple[Any, Any]:
        """Receive a call of one answer: the request and the call."""
        _, request, call = self.channel.take_unary_unary(SERVICES[service].methods_by_name[method])
        return request, call

    def take_stream(self, service: str, method: str) -> tuple[Any, Any]:
        """Receive a call of many answers: the request and the call."""
        _, request, call = self.channel.take_unary_stream(SERVICES[service].methods_by_name[method])
        call.send_initial_metadata(())
        return request, call

    def answer(self, service: str, method: str, answer: Message) -> Any:
        """Receive a call, answer it, and return the request."""
        request, call = self.take(service, method)
        call.send_initial_metadata(())
        call.terminate(answer, (), grpc.StatusCode.OK, "")
        return request

    def refuse(self, service: str, method: str, code: grpc.StatusCode, message: str) -> Any:
        """Receive a call, refuse it, and return the request."""
        request, call = self.take(service, method)
        call.send_initial_metadata(())
        call.terminate(None, (), code, message)
        return request

    @property
    def screen(self) -> str:
        """What was written to standard output, without the blanks that pad a line's end."""
        return self._text(self._out)

    @property
    def complaints(self) -> str:
        """What was written to standard error."""
        return self._text(self._err)

    def wait_for(self, text: str) -> None:
        """Wait until the text is on the screen."""
        assert isinstance(self._out.buffer, Paper)
        assert self._out.buffer.wait_for(text.encode(), 20), f"{text!r} was not written: {self.screen}"

    def close(self) -> None:
        """Let the thread go."""
        self._executor.shutdown()

    def _stream(self) -> io.TextIOWrapper:
        return io.TextIOWrapper(Paper(), encoding=self.encoding, errors="replace", write_through=True)

    def _text(self, stream: io.TextIOWrapper) -> str:
        assert isinstance(stream.buffer, Paper)
        text = stream.buffer.getvalue().decode(self.encoding)
        return "".join(line.rstrip() + "\n" for line in text.splitlines())

    def _console(self, stream: io.TextIOWrapper) -> Console:
        return Console(
            file=stream,
            width=self.width,
            height=40,
            force_terminal=self.terminal,
            color_system="standard" if self.terminal else None,
            highlight=False,
            legacy_windows=False,
            _environ={},
        )

    def _connect(self, service: Service) -> grpc.Channel:
        self.connected_to.append(service.name)
        channel: grpc.Channel = self.channel
        return channel

    def _pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.during_pause()
