"""
The simulator, set up as the recorded control plane was, with hands behind the scenes.

The recorded one looked at its nodes five times a second, lost patience with an absent replica after three seconds, and
had small disks in memory. Everything else is as by default.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from random import Random
from typing import Any, Final

import msgspec

from sandbox.fronts.mayastor_rest.api import ApiSettings, RestApi, Ticket
from sandbox.fronts.mayastor_rest.app import encode, install
from sandbox.fronts.mayastor_rest.errors import Answer
from sandbox.fronts.mayastor_rest.requests import JSON, Request
from sandbox.world.choosing import Ties
from sandbox.world.control.plane import ControlSettings, Plane, settings_of
from sandbox.world.mayastor import Settings as StorageSettings
from sandbox.world.storage import State
from sandbox.world.versions import MayastorVersion
from tests.contract.recordings.reference import Exchange, Response

NODES: Final = ("node-1", "node-2", "node-3")
REFRESH_SECONDS: Final = 0.2
DEFAULT_REFRESH_SECONDS: Final = 30.0
MEBIBYTE: Final = 2**20


class Stage:
    """The simulator and the moment it is at."""

    def __init__(self, version: MayastorVersion) -> None:
        control = ControlSettings(
            version=version,
            storage=StorageSettings(rebuild_unpublished=False, ties=Ties.REGISTRY),
            reconcile_seconds=0.2,
            notice_seconds=0.2,
            short_seconds=0.6,
            away_seconds=3.0,
            garbage_seconds=2.0,
        )
        rng = Random(1)
        plane = install(Plane(State(pools={}, volumes={})), NODES, (), (), rng)
        self.api = RestApi(plane, ApiSettings(settings_of(control), REFRESH_SECONDS), rng)
        self.now = 0.0
        self.headers: Mapping[str, str] = {}
        """Sent with every request."""

    def send(self, exchange: Exchange) -> Ticket:
        """Submit a recorded request at this moment."""
        body, headers = exchange.request.body, dict(self.headers)
        data = b""
        if body is not None:
            data = body.encode() if isinstance(body, str) else msgspec.json.encode(body)
            headers |= {} if exchange.name.endswith("no-content-type") else {"content-type": JSON}
        self.wait(0.0)
        return self.api.submit(Request(exchange.request.method, exchange.request.path, data, headers))

    def hear(self, ticket: Ticket) -> Response:
        """Wait for an answer."""
        if ticket.ready_at is None:
            raise RuntimeError("no answer ever comes")
        self.wait(max(0.0, ticket.ready_at - self.now))
        answer = ticket.answer()
        if answer is None:
            raise RuntimeError("the connection broke")
        return decoded(answer)

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
        self.api.advance(self.now)

    def change_control(self, change: Callable[[ControlSettings], ControlSettings]) -> None:
        """Set the control plane up differently."""
        seconds = self.api.cache.seconds
        self.api.set_control(change(self.api.settings.control))
        self.api.cache.seconds = seconds

    def change_storage(self, change: Callable[[StorageSettings], StorageSettings]) -> None:
        self.change_control(lambda control: replace(control, storage=change(control.storage)))

    def change_state(self, change: Callable[[State], State]) -> None:
        self.api.change(lambda plane: replace(plane, storage=change(plane.storage)))

    def lose_node(self, node: str) -> None:
        self.change_state(lambda state: replace(state, lost_nodes=state.lost_nodes | {node}))

    def bring_node_back(self, node: str) -> None:
        self.change_state(lambda state: replace(state, lost_nodes=state.lost_nodes - {node}))

    def restart(self) -> None:
        """Restart the control plane, whose order of replicas is then that of their uuids."""
        self.change_state(lambda state: replace(state, registry=tuple(sorted(state.registry))))
        self.api.change(lambda plane: replace(plane, volumes=dict(sorted(plane.volumes.items()))))

    @contextmanager
    def nowhere_but(self, pools: frozenset[str]) -> Iterator[None]:
        """
        Keep new replicas off all other pools for a moment, by cordons that were not recorded.

        It only takes candidates away: what is then chosen would have been possible without.
        """
        shut = [name for name, pool in self.api.plane.storage.pools.items() if name not in pools and not pool.cordoned]
        self._set_cordoned(shut, cordoned=True)
        try:
            yield
        finally:
            self._set_cordoned(shut, cordoned=False)

    def _set_cordoned(self, names: list[str], *, cordoned: bool) -> None:
        def change(state: State) -> State:
            pools = {
                name: replace(pool, cordoned=cordoned) if name in names else pool for name, pool in state.pools.items()
            }
            return replace(state, pools=pools)

        self.change_state(change)

    def rename(self, names: Mapping[str, str]) -> None:
        """Give things the uuids that they had when recorded."""
        if names:
            self.api.plane = renamed(self.api.plane, names)
            self.api.cache.seen = renamed(self.api.cache.seen, names)

    def snapshot(self) -> Callable[[], None]:
        """Return a function that takes everything back to this moment."""
        api, cache = self.api, self.api.cache
        kept = (self.now, api.plane, api.rng.getstate(), list(api.changes), dict(api._finished))
        seen = (cache.seen, cache.seen_at, cache._round, cache.seconds)
        asked, pending = list(api.requests), list(api.faults._pending)

        def restore() -> None:
            self.now, api.plane, state, api.changes, api._finished = kept[0], kept[1], kept[2], kept[3], dict(kept[4])
            api.rng.setstate(state)
            cache.seen, cache.seen_at, cache._round, cache.seconds = seen
            api.requests, api.faults._pending = deque(asked), list(pending)

        return restore


def decoded(answer: Answer) -> Response:
    encoded = encode(answer)
    return Response(answer.status, msgspec.json.decode(encoded) if encoded else "")


def renamed(value: Any, names: Mapping[str, str]) -> Any:
    """The same frozen data with other names in it."""
    if isinstance(value, str):
        return names.get(value, value) if type(value) is str else value
    if isinstance(value, dict) or (isinstance(value, Mapping) and not dataclasses.is_dataclass(value)):
        return {renamed(key, names): renamed(item, names) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(renamed(item, names) for item in value)
    if isinstance(value, frozenset):
        return frozenset(renamed(item, names) for item in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: renamed(getattr(value, field.name), names) for field in dataclasses.fields(value)}
        return replace(value, **fields)
    return value
