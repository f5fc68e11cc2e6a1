"""
What happens around every call of a server: errors become statuses, and each call is logged and counted.

Servicers raise; what they raise is translated here and nowhere else. An exception that nobody foresaw is INTERNAL with
a line that gives nothing away; its traceback is in the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias

import grpc
import grpc.aio
from prometheus_client import CollectorRegistry, Counter, Histogram

from common.clock import Clock
from common.logs import Logger
from common.rpc.errors import DETAILS_KEY, RpcError, to_status

QUIET: Final = ("grpc.health.", "grpc.reflection.")
"""Services whose every call would only make noise in the log."""
_SECONDS: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SHUTTING_DOWN: Final = "the server is shutting down; connect again"

Context = grpc.aio.ServicerContext[Any, Any]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # generic in its stubs only
Behaviour = Callable[[Any, Any], Any]


class _Outcome(NamedTuple):
    code: grpc.StatusCode
    message: str = ""
    details: bytes = b""
    crash: Exception | None = None


@dataclass(frozen=True, slots=True)
class CallMetrics:
    """Counts and times of handled calls."""

    handled: Counter
    seconds: Histogram

    @classmethod
    def of(cls, registry: CollectorRegistry) -> CallMetrics:
        """Make them in a registry that has none yet."""
        return cls(
            handled=Counter(
                "couchestor_grpc_server_handled_total",
                "gRPC calls ended, by code",
                ("service", "method", "code"),
                registry=registry,
            ),
            seconds=Histogram(
                "couchestor_grpc_server_seconds",
                "Seconds that gRPC calls took; of a stream, its whole life",
                ("service", "method"),
                buckets=_SECONDS,
                registry=registry,
            ),
        )


class Edge(grpc.aio.ServerInterceptor):
    """The interceptor; one per server."""

    def __init__(self, *, log: Logger, metrics: CallMetrics, clock: Clock) -> None:
        self._log = log
        self._metrics = metrics
        self._clock = clock
        self._streams: set[asyncio.Task[Any]] = set()
        self._ended: set[asyncio.Task[Any]] = set()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        path = handler_call_details.method
        codec = (handler.request_deserializer, handler.response_serializer)
        # Typed as for synchronous servers; grpc.aio takes coroutines in the same places.
        given: Any = handler
        make: Any = grpc
        wrapped: Handler
        if given.unary_unary is not None:
            wrapped = make.unary_unary_rpc_method_handler(self._unary(path, given.unary_unary), *codec)
        elif given.stream_unary is not None:
            wrapped = make.stream_unary_rpc_method_handler(self._unary(path, given.stream_unary), *codec)
        elif given.unary_stream is not None:
            wrapped = make.unary_stream_rpc_method_handler(self._stream(path, given.unary_stream), *codec)
        else:
            wrapped = make.stream_stream_rpc_method_handler(self._stream(path, given.stream_stream), *codec)
        return wrapped

    def end_streams(self) -> None:
        """End every stream under way with UNAVAILABLE, since a stream may have no end of its own."""
        for task in self._streams:
            self._ended.add(task)
            task.cancel()

    def _unary(self, path: str, behaviour: Behaviour) -> Behaviour:
        async def answer(request: Any, context: Context) -> Any:
            answers: list[Any] = []

            async def run() -> None:
                answers.append(await behaviour(request, context))

            await self._observe(path, context, run)
            return answers[0] if answers else None

        return answer

    def _stream(self, path: str, behaviour: Behaviour) -> Behaviour:
        async def answer(request: Any, context: Context) -> None:
            async def run() -> None:
                result = behaviour(request, context)
                if inspect.isawaitable(result):  # it writes to the context by itself
                    await result
                    return
                async with contextlib.aclosing(result):
                    async for message in result:
                        await context.write(message)

            task = asyncio.current_task()
            if task is None:
                raise RuntimeError("a gRPC stream is handled outside of any task")
            self._streams.add(task)
            try:
                await self._observe(path, context, run)
            finally:
                self._streams.discard(task)
                self._ended.discard(task)

        return answer

    async def _observe(self, path: str, context: Context, run: Callable[[], Awaitable[None]]) -> None:
        started = self._clock.monotonic()
        try:
            outcome = await self._outcome(context, run)
        except asyncio.CancelledError:
            self._record(path, context, _Outcome(_cut_short(context)), self._clock.monotonic() - started)
            raise
        self._record(path, context, outcome, self._clock.monotonic() - started)
        if outcome.code is not grpc.StatusCode.OK and context.code() != outcome.code:
            trailing = ((DETAILS_KEY, outcome.details),) if outcome.details else ()
            await context.abort(outcome.code, outcome.message, trailing)

    async def _outcome(self, context: Context, run: Callable[[], Awaitable[None]]) -> _Outcome:
        """Run the call. Lets a cancellation pass that was not ours."""
        try:
            await run()
        except RpcError as error:
            status = to_status(error)
            return _Outcome(error.code, status.message, status.SerializeToString())
        except grpc.aio.AbortError:
            return _Outcome(_code_of(context), context.details())
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task not in self._ended:
                raise
            task.uncancel()
            return _Outcome(grpc.StatusCode.UNAVAILABLE, _SHUTTING_DOWN)
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller gets an answer and the log the traceback
            return _Outcome(grpc.StatusCode.INTERNAL, "internal error; the server's log has it", crash=error)
        return _Outcome(_code_of(context), context.details())

    def _record(self, path: str, context: Context, outcome: _Outcome, seconds: float) -> None:
        service, method = _split(path)
        self._metrics.handled.labels(service, method, outcome.code.name).inc()
        self._metrics.seconds.labels(service, method).observe(seconds)
        fields: Mapping[str, Any] = {
            "method": f"{service}/{method}",
            "code": outcome.code.name,
            "seconds": round(seconds, 6),
            "peer": context.peer(),
        }
        if outcome.crash is not None:
            self._log.error("call crashed", exc_info=outcome.crash, **fields)
        elif service.startswith(QUIET):
            self._log.debug("call", **fields)
        elif outcome.message:
            self._log.info("call", **fields, message=outcome.message)
        else:
            self._log.info("call", **fields)


def _split(path: str) -> tuple[str, str]:
    service, _, method = path.lstrip("/").partition("/")
    return service, method


def _code_of(context: Context) -> grpc.StatusCode:
    """The code that a servicer has set; OK where it has set none, for which grpc.aio says None (or 0)."""
    code: Any = context.code()
    return code if isinstance(code, grpc.StatusCode) else grpc.StatusCode.OK


def _cut_short(context: Context) -> grpc.StatusCode:
    """Why a call was cancelled: its time is up, or the caller has gone."""
    remaining: float | None = context.time_remaining()
    return grpc.StatusCode.DEADLINE_EXCEEDED if remaining is not None and remaining <= 0 else grpc.StatusCode.CANCELLED
