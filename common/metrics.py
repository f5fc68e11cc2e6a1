"""
Metrics as Prometheus scrapes them: one registry per service instance, served at /metrics.

The registry is made at the start and handed to whoever counts something, so that several services can live in one
process without sharing a number.
"""

from __future__ import annotations

from aiohttp import web
from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import choose_encoder

from common.httpd import HttpServer


def new_registry(*, process: bool = False) -> CollectorRegistry:
    """Make an empty registry; with `process`, one that also tells of the process (memory, descriptors, CPU)."""
    # Global in the library, and meant so: no *_created series anywhere.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    registry = CollectorRegistry()
    if process:
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
    return registry


def render(registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """Write all metrics in the format that the Accept header asks for; return the text and its content type."""
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


class MetricsServer(HttpServer):
    """GET /metrics of one registry, while it is entered."""

    def __init__(self, addr: str, registry: CollectorRegistry) -> None:
        async def metrics(request: web.Request) -> web.Response:
            body, content_type = render(registry, request.headers.get("Accept", ""))
            # aiohttp's content_type= refuses a charset, and the specification's has one.
            return web.Response(body=body, headers={"Content-Type": content_type})

        super().__init__(addr, {"/metrics": metrics}, flag="--metrics-addr")
