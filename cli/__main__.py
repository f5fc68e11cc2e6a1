"""
The `couchestor` command: reads the flags, connects, runs one command, and turns every failure into one line.

Exit codes: 0 done, 1 not done, 2 the command line makes no sense, 3 too late to cancel, 130 interrupted.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import sys
import threading
from collections.abc import Mapping, Sequence

import grpc
from rich.console import Console

from cli.commands import ALL
from cli.flags import Parser
from cli.render import PIPE_WIDTH
from cli.services import Service
from cli.session import CommandError, Session
from common.clock import SystemClock
from common.config import parse_target
from common.rpc.channel import open_sync_channel
from common.rpc.errors import describe
from common.version import version

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130


def parser() -> argparse.ArgumentParser:
    """Make the parser of the whole command."""
    top = Parser(
        prog="couchestor",
        description="See how hot volumes are, why they move or stay, and move them.",
        epilog="Each command has its own --help. Exit codes: 0 done, 1 not done, 2 wrong usage, 3 too late to cancel.",
    )
    top.add_argument("--version", action="version", version=f"couchestor {version()}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in ALL:
        command.add(commands)
    return top


def session_for(args: argparse.Namespace, environ: Mapping[str, str]) -> Session:
    """Make the real surroundings of a command."""

    def connect(service: Service) -> grpc.Channel:
        return open_sync_channel(
            address_of(service, args.address, environ), service=service.full_name, idempotent=service.idempotent
        )

    return Session(
        screen=_console(sys.stdout, environ),
        complaints=_console(sys.stderr, environ),
        connect=connect,
        clock=SystemClock(),
        rng=random.SystemRandom(),
        pause=_wait,
        deadline_seconds=args.deadline,
        json=args.json,
    )


def address_of(service: Service, flag: str | None, environ: Mapping[str, str]) -> str:
    """
    Where a service is: the flag, else its environment twin, else the port it has by default.

    Raises ValueError, in one line, for a variable that holds no address.
    """
    if flag is not None:
        return flag
    told = environ.get(service.variable)
    if not told:
        return service.default_address
    try:
        return parse_target(told)
    except ValueError as error:
        raise ValueError(f"{service.variable}: {error}") from error


def run(session: Session, args: argparse.Namespace, address: str) -> int:
    """Run a command; whatever goes wrong becomes one line and an exit code."""
    try:
        code: int = args.run(session, args)
        return code
    except grpc.RpcError as error:
        session.complain(f"couchestor: {args.service.name} at {address}: {describe(error)}")
    except CommandError as error:
        session.complain(f"couchestor: {error}")
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return EXIT_FAILED


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that the command line names; returns the exit code."""
    top = parser()
    args = top.parse_args(argv)
    try:
        address = address_of(args.service, args.address, os.environ)
    except ValueError as error:
        top.error(str(error))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a screen that lacks a sign shows another, and nothing breaks
    session = session_for(args, os.environ)
    try:
        code = run(session, args, address)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has seen enough (`| head`). Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    return code


def _console(stream: io.TextIOBase | object, environ: Mapping[str, str]) -> Console:
    console = Console(file=stream, highlight=False)  # type: ignore[arg-type]
    if not console.is_terminal and not environ.get("COLUMNS"):
        console.width = PIPE_WIDTH
    return console


def _wait(seconds: float) -> None:
    threading.Event().wait(seconds)


if __name__ == "__main__":
    sys.exit(main())
