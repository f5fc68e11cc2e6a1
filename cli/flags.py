"""
Flags that several commands have, and what their values must look like.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from cli.services import Service
from cli.session import Session
from common.durations import parse_duration

Run = Callable[[Session, argparse.Namespace], int]
"""A command: answers with the exit code. Raises grpc.RpcError or CommandError."""

Commands = Any
"""What argparse's add_subparsers returns; it has no public name."""


def add_command(commands: Commands, name: str, run: Run, service: Service, about: str) -> argparse.ArgumentParser:
    """Add a command with the flags that all have."""
    parser: argparse.ArgumentParser = commands.add_parser(name, help=about, description=about)
    parser.set_defaults(run=run, service=service)
    parser.add_argument(
        f"--{service.name}",
        dest="address",
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


def duration(text: str) -> timedelta:
    """Read a duration such as 1h30m, of more than 0."""
    try:
        value = parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if value <= timedelta(0):
        raise argparse.ArgumentTypeError(f"{text!r} is not more than 0")
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
