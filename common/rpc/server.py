"""
The one place where gRPC servers are made: what they all have, and how they end.

Health, reflection, keepalive, bounds on sizes and on calls under way, and the interceptor. Plain text until TLS is
added in `_listen`; so it listens on loopback unless told otherwise.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from types import TracebackType
from typing import Any, Final, Self

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import CollectorRegistry

from common.clock import Clock, SystemClock
from common.config import Addr, SettingError, not_to_be_had, parse_addr
from common.logs import Logger
from common.rpc.channel import MAX_MESSAGE_BYTES
from common.rpc.intercept import CallMetrics, Edge

MAX_CALLS: Final = 1_000
"""Calls under way at a time, streams among them; past it callers get RESOURCE_EXHAUSTED."""
STREAM_SECONDS: Final = 1.0
"""How long streams may go on once the server drains: long enough for a finite one, and the others have no end."""
_OPTIONS: Final[Sequence[tuple[str, int]]] = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Clients of ours ping every 30 s; without this the server would take that for abuse and hang up.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    # Else a second server on a taken port starts without a word, and gets every other call.
    ("grpc.so_reuseport", 0),
)


class GrpcServer:
    """
    A server that runs while it is entered, and drains when it is left.

    `services` are full names ("couchestor.scorer.v1.ScorerService"). Raises ValueError for an address that is none,
    and SettingError for one that must not be bound or, on entering, is not to be had.
    """

    def __init__(
        self,
        addr: str,
        register: Callable[[grpc.aio.Server], None],
        services: tuple[str, ...],
        *,
        log: Logger,
        registry: CollectorRegistry,
        insecure_bind: bool,
        drain_seconds: float,
        clock: Clock | None = None,
    ) -> None:
        self._addr = _allowed(parse_addr(addr), insecure_bind=insecure_bind)
        self._register = register
        self._services = services
        self._log = log
        self._drain_seconds = drain_seconds
        self._edge = Edge(log=log, metrics=CallMetrics.of(registry), clock=clock or SystemClock())
        self._health = health.aio.HealthServicer()
        self._telling: set[asyncio.Task[None]] = set()
        self._server: grpc.aio.Server | None = None
        self.port = self._addr.port
        """The port it listens on; once entered, never 0."""

    def set_health(self, name: str, serving: bool) -> None:  # noqa: FBT001
        """Set one health entry, while the server runs; those who watch it are told."""
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        # In a task, since a slow watcher can hold the others up; changes of one entry stay in order all the same.
        task = asyncio.ensure_future(self._health.set(name, status))
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def __aenter__(self) -> Self:
        server = grpc.aio.server(interceptors=(self._edge,), options=_OPTIONS, maximum_concurrent_rpcs=MAX_CALLS)
        self._register(server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection((*self._services, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        for name in ("", *self._services):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        self.port = _listen(server, self._addr)
        await server.start()
        self._server = server
        self._log.info("serving gRPC", address=str(Addr(self._addr.host, self.port)), services=list(self._services))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is None:
            return
        server, self._server = self._server, None
        try:
            # First word to load balancers, so that new calls go elsewhere; then an end to streams; then the calls' own.
            async with asyncio.timeout(STREAM_SECONDS):
                await self._health.enter_graceful_shutdown()
        except TimeoutError:
            self._log.warning("a watcher of health is too slow to be told of the shutdown")
        finally:
            await self._stop(server)

    async def _stop(self, server: grpc.aio.Server) -> None:
        ending = asyncio.get_running_loop().call_later(min(STREAM_SECONDS, self._drain_seconds), self._edge.end_streams)
        try:
            await server.stop(self._drain_seconds)
        finally:
            ending.cancel()
            for task in tuple(self._telling):
                task.cancel()


def patience_seconds(context: grpc.aio.ServicerContext[Any, Any], share: float) -> float | None:
    """Return that share of the time that a caller still waits; None where it has no deadline."""
    remaining: float | None = context.time_remaining()  # typed as a float alone
    return None if remaining is None else max(0.0, share * remaining)


def _allowed(addr: Addr, *, insecure_bind: bool) -> Addr:
    """The address to bind: without a host loopback, or every interface where plain text is allowed there."""
    if not addr.host:
        return Addr("::" if insecure_bind else "127.0.0.1", addr.port)
    if insecure_bind or _is_loopback(addr.host):
        return addr
    raise SettingError(
        f"--grpc-addr {addr} is not a loopback address, and gRPC is served in plain text: "
        f"listen on 127.0.0.1, or say --insecure-bind where the network is trusted"
    )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _listen(server: grpc.aio.Server, addr: Addr) -> int:
    """Bind, in plain text; the one place for TLS. Raises SettingError."""
    try:
        # By hand first: gRPC does not tell why it cannot, and writes lines of its own to stderr.
        _check_free(addr)
        port = server.add_insecure_port(str(addr))
    except OSError as error:
        raise not_to_be_had("--grpc-addr", addr, error) from error
    except RuntimeError as error:
        raise not_to_be_had("--grpc-addr", addr, OSError(str(error))) from error
    return port


def _check_free(addr: Addr) -> None:
    """Raises OSError where the host has no address that can be bound, or another program listens on one of them."""
    failures: list[OSError] = []
    found = socket.getaddrinfo(addr.host, addr.port, type=socket.SOCK_STREAM)
    for family, kind, protocol, _, where in found:
        try:
            with socket.socket(family, kind, protocol) as tried:
                tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # else a port just left would look taken
                tried.bind(where)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise
            failures.append(error)
    # A machine without IPv6 cannot bind "::", and gRPC then takes every interface of IPv4.
    if len(failures) == len(found) and failures[0].errno != errno.EAFNOSUPPORT:
        raise failures[0]
