"""
`python -m sandbox.demo`: CoucheStor at work on a cluster in a box, or on real components with --cluster real.

It exits with 0 only if exactly the moves of the scenario were made, every other volume stayed for the reason that the
scenario names, and the observer saw nothing unsafe. Whatever was started is stopped, however it ends.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import shutil
import signal
import sys
from collections.abc import Sequence

from rich.console import Console

from common.clock import SystemClock
from common.kube.api import KubeError
from common.resources.migration import BackendKind
from sandbox.demo.board import Board, follow
from sandbox.demo.clusters import ClusterKind
from sandbox.demo.environment import Environment, ServiceDiedError, Setup, usual
from sandbox.demo.report import summary, tell
from sandbox.demo.story import play
from sandbox.demo.view import WIDTH_IN_A_PIPE, View
from sandbox.real.control_plane import ControlPlaneError
from sandbox.real.process import ProcessError
from sandbox.real.tools import ToolMissingError

TEND_SECONDS = 0.5
SIGNALS = (signal.SIGINT, signal.SIGTERM)
FAILURES = (ServiceDiedError, ProcessError, ControlPlaneError, ToolMissingError, KubeError, OSError)


async def demo(setup: Setup, *, keep: bool, patience_seconds: float, console: Console) -> int:
    """Play it; returns the exit code. The logs stay only where something went wrong."""
    clock = SystemClock()
    begun = clock.monotonic()
    board = Board()
    with View(console, setup.scenario, board, lambda: clock.monotonic() - begun) as view:
        environment = Environment(setup, clock=clock, say=view.say)
        try:
            async with environment, contextlib.AsyncExitStack() as stack:
                environment.observer.on_violation = view.violation
                view.say("everything is up; applying the policies")
                view.begin()
                following = asyncio.create_task(follow(environment, board))
                stack.callback(following.cancel)
                outcome = await play(environment, board, patience_seconds=patience_seconds)
                view.end()
                tell(console, environment, board, outcome, keep=keep)
                if keep:
                    console.print("all stays up until Ctrl-C (or SIGTERM); a service that you kill is started again\n")
                console.print(summary(outcome, clock.monotonic() - begun), soft_wrap=True, highlight=False)
                if keep:
                    await _until_interrupted(environment)
        except asyncio.CancelledError:
            shutil.rmtree(environment.directory, ignore_errors=True)
            raise
        if outcome.good:
            shutil.rmtree(environment.directory, ignore_errors=True)
    return 0 if outcome.good else 1


async def _until_interrupted(environment: Environment) -> None:
    """Wait for a signal, which is then no failure but the wished end."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in SIGNALS:
        loop.add_signal_handler(number, stop.set)
    while not stop.is_set():
        await environment.tend()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), TEND_SECONDS)


async def _run(arguments: argparse.Namespace, console: Console) -> int:
    """Run the demo so that a signal cancels it, and everything that was started is stopped in order."""
    setup = usual(arguments.cluster, arguments.backend, restart_killed=arguments.keep)
    task = asyncio.create_task(demo(setup, keep=arguments.keep, patience_seconds=arguments.patience, console=console))
    interrupted: list[int] = []

    def interrupt(number: int) -> None:
        interrupted.append(number)
        task.cancel()

    for number in SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, interrupt, number)
    try:
        return await task
    except asyncio.CancelledError:
        if not interrupted:
            raise
        console.print(f"demo: interrupted by {signal.Signals(interrupted[0]).name}; everything is stopped")
        return 128 + interrupted[0]


def main(argv: Sequence[str] | None = None) -> int:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m sandbox.demo", description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument(
        "--cluster",
        type=ClusterKind,
        choices=tuple(ClusterKind),
        default=ClusterKind.BOX,
        help="box: nothing but this project; real: kube-apiserver, etcd and Prometheus (see make tools)",
    )
    parser.add_argument(
        "--backend",
        type=BackendKind,
        choices=tuple(BackendKind),
        default=BackendKind.CRD,
        help="crd: Mayastor by MayastorVolume resources; rest: by the REST API of its control plane",
    )
    parser.add_argument("--keep", action="store_true", help="leave everything up at the end, until Ctrl-C")
    parser.add_argument("--patience", type=float, default=90.0, metavar="SECONDS", help="give up after (default 90)")
    arguments = parser.parse_args(argv)
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH_IN_A_PIPE)
    try:
        return asyncio.run(_run(arguments, console))
    except FAILURES as error:
        _complain(console, error)
    except BaseExceptionGroup as group:
        known, unknown = group.split(FAILURES)
        if unknown is not None or known is None:
            raise
        for failure in known.exceptions:
            _complain(console, failure)
    return 1


def _complain(console: Console, error: BaseException) -> None:
    console.print(f"demo: {error}", style="red", markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
