"""The simulated REST API on a real socket, every exchange held to the contract, and the client that asks it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from migrator.backends.rest.client import RestClient
from sandbox.fronts.mayastor_rest.app import encode
from sandbox.fronts.mayastor_rest.contract import validate_exchange
from sandbox.fronts.mayastor_rest.errors import Answer
from sandbox.fronts.mayastor_rest.requests import Request
from tests.contract.rest_cluster import RestCluster


@dataclass(slots=True)
class Stage:
    """A cluster that is served, and the client."""

    cluster: RestCluster
    client: RestClient
    exchanges: list[tuple[str, str, int]] = field(default_factory=list)
    """Method, path and status of all that was asked over the socket."""

    @property
    def writes(self) -> list[tuple[str, str, int]]:
        return [exchange for exchange in self.exchanges if exchange[0] != "GET"]

    def asked(self, path: str) -> int:
        """How often a path was asked for that begins so."""
        return sum(found.startswith(f"/v0/{path}") for _, found, _ in self.exchanges)


@contextlib.asynccontextmanager
async def staged(cluster: RestCluster, **settings: Any) -> AsyncIterator[Stage]:
    """Serve a cluster; `settings` are those of the client."""
    exchanges: list[tuple[str, str, int]] = []
    problems: list[str] = []
    answer = cluster.front._answer

    async def witnessed(request: Request) -> Answer | None:
        given = await answer(request)
        if given is not None:
            exchanges.append((request.method, request.path, given.status))
            sent = msgspec.json.decode(request.body) if request.body else None
            body = encode(given)
            try:
                received = msgspec.json.decode(body) if body else None
                validate_exchange(request.method, request.path, sent, given.status, received)
            except AssertionError as error:
                problems.append(str(error))
        return given

    setattr(cluster.front, "_answer", witnessed)  # noqa: B010 - a method is replaced on purpose
    async with cluster.front, RestClient.connect(cluster.front.url, **settings) as client:
        yield Stage(cluster, client, exchanges)
    assert problems == []
