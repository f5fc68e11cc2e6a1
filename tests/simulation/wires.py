"""
gRPC without a network: the planner's own clients, on a channel that carries their messages to whoever serves them.

Messages are serialised as on a wire. A call may be lost on the way there or back, a stream may break; a server that
dies or is suspended is simply not heard of any more, until the caller's own deadline or the broken connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import grpc
import grpc.aio

from common.rpc.errors import DETAILS_KEY, RpcError, to_status
from tests.simulation.faults import Faults
from tests.simulation.loop import Lane, Life, VirtualLoop
from tests.simulation.process import Process, never

LONGEST_CALL: Final = 60.0
Servant = tuple[Process | None, Any]
"""Who serves, None for the world itself; and the servicer, whose methods are named as the calls are."""


class SimChannel:
    """A channel of one life of one process; `reach` chooses who answers, None where nobody can be reached."""

    def __init__(self, loop: VirtualLoop, faults: Faults, caller: Process, reach: Callable[[], Servant | None]) -> None:
        self.on_call: Callable[[Any], None] = lambda _request: None
        """Is told of every request as it is sent."""
        self.loop = loop
        self.faults = faults
        self.caller = caller
        self.reach = reach

    def unary_unary(
        self,
        path: str,
        request_serializer: Callable[[Any], bytes],
        response_deserializer: Callable[[bytes], Any],
        **_: Any,
    ) -> Callable[..., Any]:
        async def call(request: Any, timeout: float | None = None) -> Any:
            if self.caller.dead:
                await never()
            data = request_serializer(request)
            self.on_call(request)
            try:
                async with asyncio.timeout(timeout or LONGEST_CALL):
                    return response_deserializer(await self._ask(path, type(request).FromString(data)))
            except TimeoutError:
                raise _error(grpc.StatusCode.DEADLINE_EXCEEDED, f"{path}: no answer in time") from None

        return call

    def unary_stream(
        self,
        path: str,
        request_serializer: Callable[[Any], bytes],
        response_deserializer: Callable[[bytes], Any],
        **_: Any,
    ) -> Callable[..., Any]:
        def call(request: Any, timeout: float | None = None) -> _Stream:
            data = request_serializer(request)
            return _Stream(self, path, type(request).FromString(data), response_deserializer, timeout)

        return call

    async def _ask(self, path: str, request: Any) -> bytes:
        there, back = self.faults.latency()
        await asyncio.sleep(there)
        lost = self.faults.loses_call(path)
        if lost == "there":
            raise _unavailable(path)
        process, servicer = self.servant(path)
        answered: asyncio.Future[bytes] = self.loop.create_future()

        async def serve() -> None:
            try:
                response = await getattr(servicer, _method(path))(request, None)
            except RpcError as error:
                _settle(answered, _refusal(error))
            else:
                _settle(answered, response.SerializeToString())

        self._serve(process, serve(), lambda: _settle(answered, _unavailable(path)))
        answer = await answered
        if lost == "back":
            raise _unavailable(path)
        await asyncio.sleep(back)
        return answer

    def servant(self, path: str) -> Servant:
        """Find who answers. Raises UNAVAILABLE if nobody can be reached."""
        found = self.reach()
        if found is None or self.faults.is_cut_off(self.caller):
            raise _unavailable(path)
        return found

    def _serve(self, process: Process | None, work: Any, broken: Callable[[], None]) -> asyncio.Task[Any]:
        if process is None:
            return self.loop.create_task(work)
        process.deaths.append(broken)
        return process.start(self.loop, work)


class _Stream:
    """The caller's end of a stream."""

    def __init__(
        self,
        channel: SimChannel,
        path: str,
        request: Any,
        read: Callable[[bytes], Any],
        timeout: float | None,
    ) -> None:
        self._channel = channel
        self._path = path
        self._request = request
        self._read = read
        self._timeout = timeout
        self._messages: asyncio.Queue[bytes | BaseException | None] = asyncio.Queue()
        self._task: asyncio.Task[Any] | None = None

    async def __aiter__(self) -> AsyncIterator[Any]:
        channel = self._channel
        if channel.caller.dead:
            await never()
        try:
            async with asyncio.timeout(self._timeout):
                there, _ = channel.faults.latency()
                await asyncio.sleep(there)
                process, servicer = channel.servant(self._path)
                broken = lambda: self._messages.put_nowait(_unavailable(self._path))  # noqa: E731
                self._task = channel._serve(process, self._serving(servicer), broken)
                while True:
                    message = await self._messages.get()
                    if message is None:
                        return
                    if isinstance(message, BaseException):
                        raise message
                    await asyncio.sleep(channel.faults.stream_lag())
                    yield self._read(message)
                    if channel.faults.breaks_watch():
                        raise _unavailable(self._path)
        except TimeoutError:
            raise _error(grpc.StatusCode.DEADLINE_EXCEEDED, f"{self._path}: no answer in time") from None
        finally:
            self.cancel()

    async def _serving(self, servicer: Any) -> None:
        try:
            async for response in getattr(servicer, _method(self._path))(self._request, None):
                self._messages.put_nowait(response.SerializeToString())
        except RpcError as error:
            self._messages.put_nowait(_refusal(error))
        else:
            self._messages.put_nowait(None)

    def cancel(self) -> None:
        """Give it up."""
        task, self._task = self._task, None
        if task is None:
            return
        # A request to end it travels as well: it is the server's own loop that stops it.
        lane: Lane | None = self._channel.caller
        if lane is not None and lane.life is not Life.DEAD:
            task.cancel()


def _method(path: str) -> str:
    return path.rpartition("/")[2]


def _settle(answered: asyncio.Future[bytes], result: bytes | BaseException) -> None:
    if answered.done():
        return
    if isinstance(result, BaseException):
        answered.set_exception(result)
    else:
        answered.set_result(result)


def _unavailable(path: str) -> grpc.aio.AioRpcError:
    return _error(grpc.StatusCode.UNAVAILABLE, f"{path}: the connection broke")


def _refusal(error: RpcError) -> grpc.aio.AioRpcError:
    status = to_status(error)
    return _error(error.code, status.message, status.SerializeToString())


def _error(code: grpc.StatusCode, message: str, details: bytes = b"") -> grpc.aio.AioRpcError:
    trailing = grpc.aio.Metadata((DETAILS_KEY, details)) if details else grpc.aio.Metadata()
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, details=message)
