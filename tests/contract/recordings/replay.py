"""
Playing the recorded exchanges again, in their order, on one simulated cluster.

Time is the recorded one where it was recorded: how long calls took, when polls were made. In between somebody waited,
for a rebuild mostly: then time passes on the stage until the simulator's answer is the recorded one, or it never is.
Time never goes back, so the order of what is seen is held to.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

from sandbox.fronts.mayastor_rest.api import Ticket
from sandbox.fronts.mayastor_rest.contract import validate_exchange
from sandbox.fronts.mayastor_rest.faults import Effect, Fault
from sandbox.world.control import volumes
from sandbox.world.versions import MayastorVersion
from tests.contract.recordings.compare import differences
from tests.contract.recordings.directions import (
    AFTERWARDS,
    DIRECTIONS,
    SLOW_SECONDS,
    STARTED_EARLY,
    WAITED,
    rebuild_speeds,
)
from tests.contract.recordings.explained import explanation
from tests.contract.recordings.reference import Exchange, Response
from tests.contract.recordings.stage import Stage

HTTP_UNAVAILABLE: Final = 503
STEP_SECONDS: Final = 0.05
POLL_SLACK_SECONDS: Final = 12.0
"""How much later than recorded a polled state may come: the control plane's rounds have no common beat."""
WAIT_SECONDS: Final = 60.0
"""How long somebody may have waited between two exchanges."""


Attempt = tuple[Response, tuple[str, ...]]
"""An answer, and in what it differs from the recorded one."""


class Verdict(StrEnum):
    """What became of an exchange."""

    SAME = "same"
    EXPLAINED = "explained"
    DIFFERENT = "different"


@dataclass(frozen=True, slots=True)
class Played:
    """An exchange that was played again."""

    index: int
    exchange: Exchange
    verdict: Verdict
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Tally:
    """How all went."""

    exchanges: int
    played: tuple[Played, ...]

    def count(self, verdict: Verdict) -> int:
        return sum(each.verdict is verdict for each in self.played)

    @property
    def reenacted(self) -> int:
        return len(self.played)

    def line(self, valid: int) -> str:
        """The one line that sums it up."""
        return (
            f"recordings: exchanges={self.exchanges} valid={valid} reenacted={self.reenacted} "
            f"same={self.count(Verdict.SAME)} explained={self.count(Verdict.EXPLAINED)} "
            f"different={self.count(Verdict.DIFFERENT)}"
        )


def replay(exchanges: Sequence[Exchange], version: MayastorVersion = MayastorVersion.LATE_2024) -> Tally:
    """Play all of them, by default to the version that they were recorded with."""
    return _Replay(exchanges, version).run()


class _Replay:
    def __init__(self, exchanges: Sequence[Exchange], version: MayastorVersion) -> None:
        self._exchanges = exchanges
        self._speeds = rebuild_speeds(exchanges)
        self._stage = Stage(version)
        self._times: Counter[str] = Counter()
        self._polling: dict[str, tuple[float, float]] = {}
        """Since when something is polled, and how long after that it was polled last."""
        self._early: dict[str, Ticket] = {}
        self._index = 0

    def run(self) -> Tally:
        played = tuple(self._play(index, exchange) for index, exchange in enumerate(self._exchanges))
        return Tally(len(self._exchanges), played)

    def _play(self, index: int, exchange: Exchange) -> Played:
        self._index = index
        occurrence = self._times[exchange.name]
        self._times[exchange.name] += 1
        self._direct(index, exchange, occurrence)
        answer, wrong = self._perform(exchange)
        request = exchange.request
        if not isinstance(request.body, str):
            validate_exchange(request.method, request.path, request.body, answer.status, answer.body)
        self._undo(exchange)
        if not wrong:
            return Played(index, exchange, Verdict.SAME)
        reason = explanation(exchange.name, wrong)
        if reason is not None:
            return Played(index, exchange, Verdict.EXPLAINED, reason)
        return Played(index, exchange, Verdict.DIFFERENT, "; ".join(wrong))

    def _direct(self, index: int, exchange: Exchange, occurrence: int) -> None:
        """Do what was done before, and is not recorded."""
        stage = self._stage
        if stage.api.cache.seconds < 1:
            speed = self._speeds[index]
            if speed != stage.api.settings.control.storage.rebuild_bytes_per_second:
                stage.change_storage(lambda storage: replace(storage, rebuild_bytes_per_second=speed))
        direction = DIRECTIONS.get((exchange.name, occurrence))
        if WAITED.fullmatch(exchange.name):
            self._wait_until_quiet()
        if direction is not None:
            direction(stage)
        begun = STARTED_EARLY.get(exchange.name)
        if begun is not None and begun not in self._early:
            early = next(each for each in self._exchanges[index:] if each.name == begun)
            stage.api.faults.inject(Fault(Effect.SLOW, seconds=SLOW_SECONDS))
            with stage.nowhere_but(places(early)):
                self._early[begun] = stage.send(early)
        self._publish_unrecorded(exchange)

    def _publish_unrecorded(self, exchange: Exchange) -> None:
        """A volume that is answered for as published, and nobody published it: somebody did, unrecorded."""
        body = exchange.response.body
        if not isinstance(body, dict) or "spec" not in body or exchange.request.path.endswith("/target"):
            return
        wanted, name = body["spec"].get("target"), body["spec"].get("uuid")
        entry = self._stage.api.plane.volumes.get(name)
        if wanted is None or entry is None or entry.target is not None:
            return
        where = volumes.Publication(wanted["node"])
        self._stage.api.change(lambda plane: volumes.publish(plane, name, where, self._stage.api.rng))

    def _undo(self, exchange: Exchange) -> None:
        undo = AFTERWARDS.get(exchange.name)
        if undo is not None:
            undo(self._stage)

    def _perform(self, exchange: Exchange) -> Attempt:
        early = self._early.pop(exchange.name, None)
        if early is not None:
            return self._judge(exchange, self._stage.hear(early))
        if exchange.request.method == "GET":
            return self._read(exchange)
        return self._write(exchange)

    def _write(self, exchange: Exchange) -> Attempt:
        """At once, or when all is quiet, whichever is as recorded."""
        restore = self._stage.snapshot()
        first = self._ask(exchange)
        if self._good(exchange, first):
            return first
        restore()
        self._wait_until_quiet()
        later = self._ask(exchange)
        if self._good(exchange, later):
            return later
        restore()
        return self._ask(exchange)

    def _read(self, exchange: Exchange) -> Attempt:
        """At the recorded time of a poll; else whenever it is as recorded."""
        stage, seconds = self._stage, exchange.seconds or 0.0
        if exchange.is_poll:
            since, last = self._polling.get(exchange.name, (0.0, math.inf))
            if seconds < max(last, STEP_SECONDS):
                since = stage.now - seconds
            self._polling[exchange.name] = (since, seconds)
            due, slack = since + seconds, POLL_SLACK_SECONDS
        else:
            due, slack = stage.now, WAIT_SECONDS
        restore = stage.snapshot()
        stage.wait(max(0.0, due - stage.now))
        first = self._ask(exchange)
        if not first[1]:
            return first
        for good in (_same, self._good):
            restore()
            while stage.now < due + slack:
                found = self._ask(exchange)
                if good(exchange, found):
                    return found
                stage.wait(STEP_SECONDS)
        restore()
        stage.wait(max(0.0, due - stage.now))
        return self._ask(exchange)

    def _ask(self, exchange: Exchange) -> Attempt:
        with self._stage.nowhere_but(self._placed(exchange)):
            ticket = self._stage.send(exchange)
        return self._judge(exchange, self._stage.hear(ticket))

    def _good(self, exchange: Exchange, attempt: Attempt) -> bool:
        """Whether an answer is as recorded, but for what is explained."""
        return not attempt[1] or explanation(exchange.name, attempt[1]) is not None

    def _placed(self, exchange: Exchange) -> frozenset[str]:
        """Where a write put its replicas; all pools where it put none."""
        everywhere = frozenset(self._stage.api.plane.storage.pools)
        if exchange.request.method != "PUT":
            return everywhere
        if exchange.response.status == HTTP_UNAVAILABLE:
            # Nobody was told; the next look at the volume tells.
            after = self._exchanges[self._index + 1 :]
            volume = exchange.request.path.split("/replica_count")[0]
            looked = next((each for each in after if each.request.path == volume), exchange)
            return places(looked) or everywhere
        return places(exchange) or everywhere

    def _judge(self, exchange: Exchange, answer: Response) -> Attempt:
        names = same_names(exchange.response.body, answer.body)
        if names:
            self._stage.rename(names)
            answer = Response(answer.status, _with_names(answer.body, names))
        return answer, differences(exchange, answer)

    def _wait_until_quiet(self) -> None:
        until = self._stage.now + WAIT_SECONDS
        while self._rebuilding() and self._stage.now < until:
            self._stage.wait(STEP_SECONDS * 4)

    def _rebuilding(self) -> bool:
        """Whether any volume is being made whole, or will be."""
        plane = self._stage.api.plane
        return plane.rebuilding() > 0 or any(
            volume.self_heal
            and volume.target_node is not None
            and (len(volume.replicas) < volume.replica_count or any(not each.attached for each in volume.replicas))
            for volume in plane.storage.volumes.values()
        )


def _same(_exchange: Exchange, attempt: Attempt) -> bool:
    return not attempt[1]


def places(exchange: Exchange) -> frozenset[str]:
    """The pools on which a recorded volume has its replicas."""
    body = exchange.response.body
    if not isinstance(body, dict) or "state" not in body or "replica_topology" not in body["state"]:
        return frozenset()
    return frozenset(place["pool"] for place in body["state"]["replica_topology"].values())


def same_names(recorded: Any, answer: Any) -> dict[str, str]:
    """Which uuids of the simulator's are those of what was recorded: replicas by pool, targets by volume."""
    names: dict[str, str] = {}
    for ours, theirs in _pairs(recorded, answer):
        mine = {place["pool"]: uuid for uuid, place in ours["state"]["replica_topology"].items()}
        for uuid, place in theirs["state"]["replica_topology"].items():
            if place["pool"] in mine and mine[place["pool"]] != uuid:
                names[mine[place["pool"]]] = uuid
        target, recorded_target = ours["state"].get("target"), theirs["state"].get("target")
        if target and recorded_target and target["uuid"] != recorded_target["uuid"]:
            names[target["uuid"]] = recorded_target["uuid"]
    return names


def _pairs(recorded: Any, answer: Any) -> list[tuple[Any, Any]]:
    """Volumes of an answer, each with the recorded one."""
    if not isinstance(recorded, dict) or not isinstance(answer, dict):
        return []
    if "entries" in recorded and "entries" in answer:
        known = {volume["spec"]["uuid"]: volume for volume in recorded["entries"]}
        return [(each, known[each["spec"]["uuid"]]) for each in answer["entries"] if each["spec"]["uuid"] in known]
    both = "replica_topology" in recorded.get("state", {}) and "replica_topology" in answer.get("state", {})
    return [(answer, recorded)] if both else []


def _with_names(body: Any, names: dict[str, str]) -> Any:
    if isinstance(body, dict):
        return {_with_names(key, names): _with_names(item, names) for key, item in body.items()}
    if isinstance(body, list):
        return [_with_names(item, names) for item in body]
    if isinstance(body, str):
        for name, other in names.items():
            body = body.replace(name, other)
    return body
