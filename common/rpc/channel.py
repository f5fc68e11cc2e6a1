"""
The one place where gRPC channels are made: what the client's side of every call has.

Retries are the library's, told by a service config: on UNAVAILABLE only, and only for methods that may safely be
called twice. Deadlines are the caller's, a call. Plain text until TLS is added here.
"""

from __future__ import annotations

import json
from typing import Any, Final

import grpc
import grpc.aio

MAX_MESSAGE_BYTES: Final = 16 * 2**20
"""Of one message, either way; servers have the same bound."""
_RETRY: Final = {
    "maxAttempts": 4,
    "initialBackoff": "0.2s",
    "maxBackoff": "2s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}


def open_channel(addr: str, *, service: str, idempotent: tuple[str, ...]) -> grpc.aio.Channel:
    """
    Make a channel for asyncio to one service; it connects when it is first used.

    `service` is the full name, `idempotent` the methods that may be retried on UNAVAILABLE.
    """
    return grpc.aio.insecure_channel(addr, options=_options(service, idempotent))


def open_sync_channel(addr: str, *, service: str, idempotent: tuple[str, ...]) -> grpc.Channel:
    """Make a channel for blocking calls; the rest is as for `open_channel`."""
    return grpc.insecure_channel(addr, options=_options(service, idempotent))


def service_config(service: str, idempotent: tuple[str, ...]) -> str:
    """Write the service config: a retry policy for the idempotent methods, none for any other."""
    names = [{"service": service, "method": method} for method in idempotent]
    return json.dumps({"methodConfig": [{"name": names, "retryPolicy": _RETRY}] if names else []})


def _options(service: str, idempotent: tuple[str, ...]) -> list[tuple[str, Any]]:
    return [
        ("grpc.service_config", service_config(service, idempotent)),
        ("grpc.enable_retries", 1),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        # The library's own 2 minutes would keep a restarted peer waiting for its first call.
        ("grpc.initial_reconnect_backoff_ms", 500),
        ("grpc.min_reconnect_backoff_ms", 500),
        ("grpc.max_reconnect_backoff_ms", 5_000),
        # Services of the same cluster are never behind the proxy that the environment may name.
        ("grpc.enable_http_proxy", 0),
    ]
