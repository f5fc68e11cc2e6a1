"""
How a service starts and ends: one event loop, an orderly end on a signal, an exit code that tells the truth.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, Final

from common.config import SettingError
from common.logs import Logger, capture_libraries

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


def run_service(main: Callable[[asyncio.Event], Awaitable[None]], log: Logger, *, prog: str) -> int:
    """
    Run `main` until it returns; SIGTERM and SIGINT set its event, a second signal cancels it.

    Returns the exit code: 0 after an orderly end, 1 after a crash (which is logged), 2 for a setting that cannot be
    followed (told on stderr in the program's name), 128 + the signal's number when a second signal cut the end short.
    """
    capture_libraries(log)
    try:
        return asyncio.run(_run(main, log))
    except SettingError as error:
        sys.stderr.write(f"{prog}: {' '.join(str(error).split())}\n")
        return 2


async def _run(main: Callable[[asyncio.Event], Awaitable[None]], log: Logger) -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    hurried: list[int] = []
    task = asyncio.ensure_future(main(stop))

    def on_signal(number: int) -> None:
        name = signal.Signals(number).name
        if stop.is_set():
            log.warning("second signal, ending at once", signal=name)
            hurried.append(number)
            task.cancel()
            return
        log.info("stopping", signal=name)
        stop.set()

    loop.set_exception_handler(lambda _loop, context: _log_stray(log, context))
    for number in SIGNALS:
        loop.add_signal_handler(number, on_signal, number)
    try:
        await task
    except asyncio.CancelledError:
        if not hurried:
            raise
        return 128 + hurried[0]
    except Exception as error:
        if (wrong := _setting_in(error)) is not None:
            raise wrong from error
        log.exception("crashed", error="; ".join(_causes(error)))
        return 1
    finally:
        for number in SIGNALS:
            loop.remove_signal_handler(number)
    log.info("stopped")
    return 0


def _setting_in(error: Exception) -> SettingError | None:
    """The setting that is to blame, if one is and nothing else; a group of tasks wraps it."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        (error,) = error.exceptions
    return error if isinstance(error, SettingError) else None


def _causes(error: BaseException) -> Iterator[str]:
    """A line for each thing that went wrong; groups of tasks only wrap what matters."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _causes(inner)
    else:
        yield " ".join(f"{type(error).__name__}: {error}".split())


def _log_stray(log: Logger, context: Mapping[str, Any]) -> None:
    """What asyncio has nobody to raise at: an exception in a forgotten task, a callback that failed."""
    log.error("unhandled in the event loop", problem=context.get("message"), exc_info=context.get("exception"))
