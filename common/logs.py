"""
Logs: structured events on one stream, JSON for machines or text for a person.

A logger is made at the start and handed to whoever logs; there is no logger of a module, so several services can live
in one process, each with its own. Events are short fixed phrases; what varies goes into fields.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, Final, TextIO

import msgspec
import structlog

from common.clock import Clock, SystemClock

Logger = structlog.typing.FilteringBoundLogger
"""What is passed in: info("event", key=value), bind(key=value), and so on."""

_LEVELS: Final = {"DEBUG": 10, "INFO": 20, "WARNING": 30, "ERROR": 40}


def make_logger(
    service: str, *, level: str, json: bool, stream: TextIO | None = None, clock: Clock | None = None
) -> Logger:
    """
    Make the logger of one service, on stdout unless another stream is given.

    Raises ValueError for a level that is none.
    """
    severity = _LEVELS.get(level.upper())
    if severity is None:
        raise ValueError(f"log level {level!r} is not one of {', '.join(_LEVELS)}")
    out = stream if stream is not None else sys.stdout
    last: tuple[structlog.typing.Processor, ...] = (structlog.processors.format_exc_info, _to_json)
    if not json:
        last = (structlog.dev.ConsoleRenderer(colors=out.isatty(), exception_formatter=structlog.dev.plain_traceback),)
    log: Logger = structlog.wrap_logger(
        structlog.WriteLogger(out),
        processors=[structlog.processors.add_log_level, _stamp(clock or SystemClock()), *last],
        wrapper_class=structlog.make_filtering_bound_logger(severity),
        cache_logger_on_first_use=False,
        service=service,
    )
    return log


def capture_libraries(log: Logger) -> None:
    """
    Bring what libraries log through the standard module into `log`, from WARNING up.

    This is state of the process, and so belongs into the start of a program and nowhere else.
    """
    root = logging.getLogger()
    root.handlers[:] = [_Forward(log)]
    root.setLevel(logging.WARNING)


class _Forward(logging.Handler):
    """Passes records of the standard module on."""

    def __init__(self, log: Logger) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        self._log.log(record.levelno, record.getMessage(), library=record.name, exc_info=record.exc_info)


def _stamp(clock: Clock) -> structlog.typing.Processor:
    def add(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event["time"] = clock.now().isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return event

    return add


def _to_json(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> str:
    leading = {key: event.pop(key) for key in ("time", "level", "service", "event") if key in event}
    return msgspec.json.encode({**leading, **event}, enc_hook=repr).decode()
