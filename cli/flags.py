"""
Flags that several commands have, and what their values must look like.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, NoReturn

from cli.services import Service
from cli.session import Session
from common.config import parse_target
from common.durations import format_duration, parse_duration
from common.placement import Tier

EXIT_USAGE: Final = 2
LONGEST: Final = timedelta(days=3650)
"""Of a duration that is typed; a message could not carry every one that can be written."""
LONGEST_NAME: Final = 253
"""Characters of a Kubernetes name, and of a request id."""
TIERS: Final = frozenset(tier.value for tier in Tier)

Run = Callable[[Session, argparse.Namespace], int]
"""A command: answers with the exit code. Raises grpc.RpcError or CommandError."""

Commands = Any
"""What argparse's add_subparsers returns; it has no public name."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaint is one line, as everything else is that goes wrong."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USAGE, f"{self.prog}: {' '.join(message.split())}; see {self.prog} --help\n")


@dataclass(frozen=True, slots=True)
class Target:
    """Where a volume is to go."""

    kind: str
    """tier or pool"""
    name: str


def add_command(commands: Commands, name: str, run: Run, service: Service, about: str) -> argparse.ArgumentParser:
    """Add a command with the flags that all have."""
    parser: argparse.ArgumentParser = commands.add_parser(name, help=about, description=about)
    parser.set_defaults(run=run, service=service)
    parser.add_argument(
        f"--{service.name}",
        dest="address",
        type=address,
        metavar="ADDR",
        help=f"address of the {service.name} (or {service.variable}; {service.default_address})",
    )
    parser.add_argument(
        "--deadline", type=seconds, default=10.0, metavar="SECONDS", help="time one call may take (default 10)"
    )
    parser.add_argument("--json", action="store_true", help="print the answer as JSON")
    return parser


def seconds(text: str) -> float:
    """Read a positive number of seconds."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 86_400:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from above 0 to 86400")
    return value


def address(text: str) -> str:
    """Read where a service is."""
    try:
        return parse_target(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def name(text: str) -> str:
    """Read the name of something in Kubernetes; which characters it may have is the service's to say."""
    if not text or len(text) > LONGEST_NAME or any(sign.isspace() or not sign.isprintable() for sign in text):
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no name: it has 1 to {LONGEST_NAME} characters, none blank")
    return text


def request_id(text: str) -> str:
    """Read the id of a request."""
    if not 1 <= len(text) <= LONGEST_NAME:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no request id: it has 1 to {LONGEST_NAME} characters")
    return text


def target(text: str) -> Target:
    """
    Tell a tier from a pool: "hot" is a tier, "pool-nvme-1" a pool.

    Pool names have no colon, so a prefix can say which is meant.
    """
    kind, colon, named = text.partition(":")
    if not colon:
        kind, named = "tier" if text in TIERS else "pool", text
    if kind == "tier" and named not in TIERS:
        raise argparse.ArgumentTypeError(f"{text!r}: there is no such tier; it is one of {', '.join(sorted(TIERS))}")
    if kind not in {"tier", "pool"} or not named or ":" in named:
        raise argparse.ArgumentTypeError(f"{text!r}: write hot, warm, cold, a pool's name, tier:NAME or pool:NAME")
    return Target(kind, name(named))


def duration(text: str) -> timedelta:
    """Read a duration such as 1h30m, of more than 0."""
    try:
        value = parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if value <= timedelta(0):
        raise argparse.ArgumentTypeError(f"{text!r} is not more than 0")
    if value > LONGEST:
        raise argparse.ArgumentTypeError(f"{text!r} is more than {format_duration(LONGEST)}")
    return value


def count(low: int, high: int) -> Callable[[str], int]:
    """Make a reader of whole numbers from `low` to `high`."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {low} to {high}")
        return value

    return read
