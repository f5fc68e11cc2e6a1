"""
What was done between the recorded exchanges and is only told by their names: nodes that went away, data planes that
failed, cordons. And how fast the disks were, which the recorded progress tells.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from sandbox.fronts.mayastor_rest.faults import Effect, Fault
from sandbox.world.control import cluster, volumes
from sandbox.world.control.plane import DataPlane
from sandbox.world.mayastor import Faults as RebuildFaults
from tests.contract.recordings.reference import Exchange
from tests.contract.recordings.stage import DEFAULT_REFRESH_SECONDS, MEBIBYTE, NODES, REFRESH_SECONDS, Stage

Direction = Callable[[Stage], None]
FAST: Final = 100.0 * MEBIBYTE
MAX_REBUILDS_SPEED: Final = 5.02 * MEBIBYTE
"""42 % of 256 MiB after 22 seconds."""
REFRESH_AFTER_POLLING: Final = 21.8
"""When the first change showed, in the story told with the default cache."""


def _fault(effect: Effect, *, step: DataPlane = DataPlane.CREATE_REPLICA, seconds: float = 0.0) -> Direction:
    return lambda stage: stage.api.faults.inject(Fault(effect, step=step, seconds=seconds))


def _token(value: str | None) -> Direction:
    def direction(stage: Stage) -> None:
        stage.api.settings = replace(stage.api.settings, token_required=True)
        stage.headers = {} if value is None else {"authorization": f"Bearer {value}"}

    return direction


def _no_token(stage: Stage) -> None:
    stage.api.settings = replace(stage.api.settings, token_required=False)
    stage.headers = {}


def _cordon_all(stage: Stage) -> None:
    """Nobody uses the volume any more, and no node takes a target."""
    for name, entry in stage.api.plane.volumes.items():
        if entry.target is not None:
            stage.api.change(lambda plane, name=name: volumes.unpublish(plane, name))  # type: ignore[misc]
    _cordon(stage, *NODES)


def _cordon(stage: Stage, *nodes: str) -> None:
    for node in nodes:
        stage.api.change(lambda plane, node=node: cluster.cordon_node(plane, node, "unrecorded"))  # type: ignore[misc]


def _uncordon(stage: Stage, *nodes: str) -> None:
    for node in nodes:
        stage.api.change(lambda plane, node=node: cluster.uncordon_node(plane, node, "unrecorded"))  # type: ignore[misc]


def _default_cache(stage: Stage) -> None:
    """The cache as it is by default, its next round when the recorded one came."""
    rounds = DEFAULT_REFRESH_SECONDS
    stage.wait((rounds - (stage.now + REFRESH_AFTER_POLLING) % rounds) % rounds)
    stage.api.cache.seconds = rounds
    stage.api.cache._round = stage.api.cache._round_of(stage.now)
    stage.change_storage(lambda storage: replace(storage, rebuild_bytes_per_second=MAX_REBUILDS_SPEED))


def _quick_cache(stage: Stage) -> None:
    stage.api.cache.seconds = REFRESH_SECONDS
    stage.api.cache.force(stage.api.plane)
    stage.api.cache._round = stage.api.cache._round_of(stage.now)


def _limit(rebuilds: int | None) -> Direction:
    return lambda stage: stage.change_control(lambda control: replace(control, max_rebuilds=rebuilds))


def _limited_to_one(stage: Stage) -> None:
    _quick_cache(stage)
    _limit(1)(stage)


def _failing_rebuild(stage: Stage) -> None:
    """What is being rebuilt now fails at the 31 % that the history tells."""
    names = frozenset(name for name, volume in stage.api.plane.storage.volumes.items() if len(volume.replicas) > 1)
    faults = RebuildFaults(failing_rebuilds=names, at_progress=82080 / 262144)
    stage.change_storage(lambda storage: replace(storage, faults=faults))


def _rebuilds_succeed(stage: Stage) -> None:
    stage.change_storage(lambda storage: replace(storage, faults=RebuildFaults()))


DIRECTIONS: Final[Mapping[tuple[str, int], Direction]] = MappingProxyType(
    {
        ("publish-all-nodes-cordoned", 0): _cordon_all,
        ("samenode:plus1-only-other-pool-of-same-node", 0): lambda stage: _cordon(stage, "node-2", "node-3"),
        ("fail:create-replica", 0): _fault(Effect.DATA_PLANE, step=DataPlane.CREATE_REPLICA),
        ("fail:remove-child", 0): _fault(Effect.DATA_PLANE, step=DataPlane.REMOVE_CHILD),
        ("fail:destroy-replica", 0): _fault(Effect.DATA_PLANE, step=DataPlane.DESTROY_REPLICA),
        ("slow:scale-up(12s)", 0): _fault(Effect.SLOW, seconds=12.0),
        ("heal:poll", 0): _failing_rebuild,
        ("heal:poll", 2): _rebuilds_succeed,
        ("nodedown:poll", 1): lambda stage: stage.lose_node("node-2"),
        ("nodedown:poll-node-back", 0): lambda stage: stage.bring_node_back("node-2"),
        ("tgtdown:poll", 1): lambda stage: stage.lose_node("node-1"),
        ("tgtdown:poll-back", 0): lambda stage: stage.bring_node_back("node-1"),
        ("offline:node-1-down", 0): lambda stage: stage.lose_node("node-1"),
        ("offline:poll-node-back", 0): lambda stage: stage.bring_node_back("node-1"),
        ("restart:scale-down", 0): lambda stage: stage.restart(),
        ("restart2:scale-down", 0): lambda stage: stage.restart(),
        ("maxreb:create-a", 0): _default_cache,
        ("maxreb2:create-a", 0): _limited_to_one,
        ("etcd-down:scale-up", 0): _fault(Effect.TIMEOUT_BEFORE),
        ("etcd-down:label", 0): _fault(Effect.TIMEOUT_AFTER),
        ("core-down:get-volume", 0): _fault(Effect.DOWN),
        ("core-down:pools", 0): _fault(Effect.DOWN),
        ("core-down:scale-up", 0): _fault(Effect.DOWN),
        ("jwt:none", 0): _token(None),
        ("jwt:garbage", 0): _token("garbage"),
        ("jwt:expired", 0): _token("aGVhZA.cGF5.c2ln"),
        ("jwt:ok", 0): _token("aGVhZA.cGF5.c2ln"),
        ("jwt:ok-no-exp", 0): _token("aGVhZA.cGF5.c2ln"),
        ("republish3:create", 0): _no_token,
    }
)
"""Before which exchange something was done; the number counts those of the same name."""

AFTERWARDS: Final[Mapping[str, Direction]] = MappingProxyType(
    {
        "publish-explicit-cordoned-node": lambda stage: _uncordon(stage, *NODES),
        "samenode:plus1-only-other-pool-of-same-node": lambda stage: _uncordon(stage, "node-2", "node-3"),
        "maxreb2:scale-up-b-again": _limit(None),
    }
)
"""After which exchange something was undone."""

WAITED: Final = re.compile(
    r"which:.*:(unpublish|scale-down)|tie:(delete-filler|scale-down)|(repub|offline):unpublish|unpub:unpublish-2"
    r"|republish\d?:(PUT-target-)?republish|child\d?:delete-old-child|drain:cordon-node-3|drain2:drain"
    r"|restart2?:scale-down|fail:remove-child|label:down.*|label:pool-1-PUT-cold|two:down|nolabel:plus1"
    r"|which:(cordon|label).*|noheal:scale-up-published|maxreb2:scale-up-b-again"
)
"""Before which exchanges somebody waited for rebuilds to end, as what follows tells."""

STARTED_EARLY: Final[Mapping[str, str]] = MappingProxyType({"busy:same-count-meanwhile": "busy:scale-up-slow(3s)"})
"""Before which exchange another one was begun, whose answer was recorded later."""
SLOW_SECONDS: Final = 3.0


def rebuild_speeds(exchanges: Sequence[Exchange]) -> list[float]:
    """How fast the disks were at each exchange, in bytes a second, as far as the progress of its volume tells."""
    speeds: dict[str, float] = {}
    last: dict[str, tuple[float, int, int]] = {}
    for exchange in exchanges:
        seen = _progress(exchange)
        if seen is None or exchange.seconds is None:
            continue
        volume, size, progress = seen
        before = last.get(volume)
        if before is not None and progress > before[1] and exchange.seconds > before[0]:
            speed = size * (progress - before[1]) / 100 / (exchange.seconds - before[0])
            speeds[volume] = speed if before[1] else speeds.get(volume, speed)
        last[volume] = (exchange.seconds, progress, size)
    return [_speed(exchange, speeds) for exchange in exchanges]


def _speed(exchange: Exchange, speeds: Mapping[str, float]) -> float:
    return next((speed for volume, speed in speeds.items() if volume in exchange.request.path), FAST)


def _progress(exchange: Exchange) -> tuple[str, int, int] | None:
    body = exchange.response.body
    if not exchange.is_poll or not isinstance(body, dict) or "state" not in body:
        return None
    places = body["state"]["replica_topology"].values()
    found = [place["rebuild-progress"] for place in places if "rebuild-progress" in place]
    return (body["spec"]["uuid"], body["spec"]["size"], found[0]) if found else None
