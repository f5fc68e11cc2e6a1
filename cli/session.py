"""
What a command needs from outside, handed in: a way to connect, a screen, a clock, randomness, a way to wait.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import grpc
from google.protobuf import json_format
from google.protobuf.message import Message
from rich.console import Console

from cli.services import Service
from common.clock import Clock


class CommandError(Exception):
    """A command cannot do what it was asked; the message is one line for a person."""


@dataclass(frozen=True, slots=True)
class Session:
    """The surroundings of one run of a command."""

    screen: Console
    """Where answers go: standard output."""
    complaints: Console
    """Where everything else goes: standard error."""
    connect: Callable[[Service], grpc.Channel]
    clock: Clock
    rng: random.Random
    pause: Callable[[float], None]
    """Wait that many seconds."""
    deadline_seconds: float
    """For one call."""
    json: bool
    """Answer with JSON instead of tables."""

    def write(self, line: str) -> None:
        """Write one line as it is: no wrapping, no markup."""
        print(line, file=self.screen.file, flush=True)

    def complain(self, line: str) -> None:
        """Write one line to standard error, as it is."""
        print(line, file=self.complaints.file, flush=True)

    def write_json(self, message: Message, *, one_line: bool = False) -> None:
        """Write a message as JSON, with the names of the .proto, zeros and empty lists included."""
        text = json_format.MessageToJson(
            message,
            always_print_fields_with_no_presence=True,
            preserving_proto_field_name=True,
            indent=None if one_line else 2,
        )
        self.write(text)


def status_of(error: grpc.RpcError) -> grpc.StatusCode:
    """The status that a failed call ended with; UNKNOWN where it has none."""
    code = getattr(error, "code", None)  # the errors that a stub raises are calls as well, which no type says
    status = code() if callable(code) else None
    return status if isinstance(status, grpc.StatusCode) else grpc.StatusCode.UNKNOWN
