"""
A copy of all volumes, targets, pools and nodes, kept by asking again and again, since this API has nothing to watch.

Each round reads everything once; whoever shows it compares it with what was shown before. Pages are offsets into an
order without meaning, in which a deletion moves another volume to a place that was read already. So the first listing
is repeated until two agree, a later one when a volume that was known is not in it, and such a volume is gone only when
asking for it by its uuid says so.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from common.backoff import Backoff
from common.clock import Clock
from common.logs import Logger
from common.placement import ReplicaHealth
from migrator.backends.rest import shapes
from migrator.backends.rest.answers import Meaning, Refused, RestError
from migrator.backends.rest.client import RestClient
from migrator.backends.rest.facts import NexusIndex, rest_node, rest_pool, rest_volume
from migrator.core.steering.cluster import RestCluster, RestNode, RestPool, RestVolume

PAGE_ENTRIES: Final = 200
MAX_PAGES: Final = 5_000
"""A million volumes; whoever goes on after that is not Mayastor."""
LISTINGS: Final = 3
"""So often the volumes are listed in one round at most; what is still overlooked then is found in the next."""
CONFIRMED_A_ROUND: Final = 200
"""So many missing volumes are asked for one by one; the others wait for the next round."""
AT_ONCE: Final = 8
LEAST_SECONDS: Final = 1.0
QUICKER: Final = 3.0
"""While something moves, a round comes this much more often than answers are renewed: specs are always fresh."""
CALMER: Final = 1.5
"""Each round without a change waits this much longer, up to the age of the answers."""
WORK_SHARE: Final = 5.0
"""Waits are this many times as long as a round takes, at least."""


@dataclass(frozen=True, slots=True)
class Round:
    """Everything, as one round of questions found it."""

    volumes: Mapping[str, RestVolume] = field(default_factory=dict)
    published: frozenset[str] = frozenset()
    """Uuids of the volumes that have a target, at work or not."""
    pools: Mapping[str, RestPool] = field(default_factory=dict)
    nodes: Mapping[str, RestNode] = field(default_factory=dict)
    raw_nodes: tuple[shapes.Node, ...] = ()
    undecodable: Mapping[str, str] = field(default_factory=dict)
    """Why, by the uuid of a volume that cannot be understood."""

    def cluster(self) -> RestCluster:
        return RestCluster.of(self.volumes.values(), self.pools.values(), self.nodes.values())


class RestCopy:
    """The copy."""

    def __init__(
        self,
        client: RestClient,
        *,
        cache_seconds: float,
        clock: Clock,
        rng: random.Random,
        log: Logger,
        page_entries: int = PAGE_ENTRIES,
    ) -> None:
        """`cache_seconds`: how old the states in answers may be."""
        self._client = client
        self._cache_seconds = cache_seconds
        self._clock = clock
        self._rng = rng
        self._log = log
        self._page_entries = max(page_entries, 1)
        self._interval = LEAST_SECONDS
        self._heard_at: float | None = None
        self._due = asyncio.Event()
        self._whole = asyncio.Event()
        self.now = Round()
        """What the last round found that found something new."""
        self.rounds = 0
        """How many were whole."""
        self._put_together: tuple[Round, RestCluster] | None = None
        self.problem = ""
        """Why the last round failed; empty if it did not."""

    @property
    def synced(self) -> bool:
        """Whether there was a whole round once."""
        return self._heard_at is not None

    @property
    def cluster(self) -> RestCluster:
        """All of it, with the levers that are pulled."""
        if self._put_together is None or self._put_together[0] is not self.now:
            self._put_together = (self.now, self.now.cluster())
        return self._put_together[1]

    @property
    def began(self) -> float:
        """When the last whole round began, by the clock's monotonic time; as long ago as can be before the first."""
        return float("-inf") if self._heard_at is None else self._heard_at

    async def wait_synced(self) -> None:
        """Wait for the first whole round."""
        await self._whole.wait()

    @property
    def age_seconds(self) -> float:
        """Seconds since the last whole round began, to which the age of the answers themselves is to be added."""
        return float("inf") if self._heard_at is None else self._clock.monotonic() - self._heard_at

    @property
    def interval_seconds(self) -> float:
        """How long the next wait is meant to be, but for its jitter."""
        return self._interval

    def hurry(self) -> None:
        """Begin the next round now."""
        self._due.set()

    async def run(self, after_round: Callable[[], object] | None = None) -> None:
        """Ask forever; `after_round` is called after each, successful or not."""
        backoff = Backoff(self._rng, first_seconds=LEAST_SECONDS, cap_seconds=max(30.0, self._cache_seconds))
        while True:
            try:
                await self.refresh()
                backoff.reset()
                wait = self._interval * self._rng.uniform(0.9, 1.1)
            except RestError as error:
                if self.problem != str(error):
                    self._log.warning("Mayastor's REST API cannot be read", why=str(error))
                self.problem = str(error)
                wait = backoff.next_seconds()
            if after_round is not None:
                after_round()
            await self._wait(wait)

    async def _wait(self, seconds: float) -> None:
        sleep = asyncio.ensure_future(self._clock.sleep(seconds))
        due = asyncio.ensure_future(self._due.wait())
        try:
            await asyncio.wait((sleep, due), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for waiting in (sleep, due):
                waiting.cancel()
            await asyncio.gather(sleep, due, return_exceptions=True)
        self._due.clear()

    async def refresh(self) -> None:
        """Make one round. Raises RestError; what there was then stays."""
        began = self._clock.monotonic()
        found = await self._round()
        changed = found != self.now
        if changed:  # else what was concluded from the one before still stands
            self.now = found
        self._heard_at, self.problem = began, ""
        self.rounds += 1
        self._whole.set()
        self._pace(found, self._clock.monotonic() - began, changed=changed)

    def _pace(self, found: Round, took: float, *, changed: bool) -> None:
        calm = max(LEAST_SECONDS, self._cache_seconds)
        quick = max(LEAST_SECONDS, self._cache_seconds / QUICKER)
        rebuilding = any(
            replica.health is ReplicaHealth.SYNCING for volume in found.volumes.values() for replica in volume.replicas
        )
        wanted = quick if changed or rebuilding else min(calm, max(quick, self._interval * CALMER))
        self._interval = max(wanted, took * WORK_SHARE)

    # --- one round -----------------------------------------------------------------------------------------------

    async def _round(self) -> Round:
        nodes = tuple(await self._client.nodes())
        pools = await self._client.pools()
        listed, undecodable, last = await self._list()
        unasked = await self._confirm(listed, last)
        # After the volumes: a target that went before it was named again is then not taken for another one.
        nexuses = NexusIndex(await self._client.nexuses())
        published = {uuid for uuid, volume in listed.items() if volume.state.target is not None}
        return Round(
            volumes={
                **{uuid: rest_volume(volume, nexuses) for uuid, volume in sorted(listed.items())},
                **{uuid: self.now.volumes[uuid] for uuid in unasked},
            },
            published=frozenset(published | (self.now.published & unasked)),
            pools={pool.id: rest_pool(pool) for pool in pools},
            nodes={node.id: rest_node(node) for node in nodes},
            raw_nodes=nodes,
            undecodable=undecodable,
        )

    async def _list(self) -> tuple[dict[str, shapes.Volume], dict[str, str], set[str]]:
        """List all volumes, again where some went meanwhile; return them, those not understood, and the last names."""
        volumes: dict[str, shapes.Volume] = {}
        undecodable: dict[str, str] = {}
        last: set[str] | None = None
        for _ in range(LISTINGS):
            names, pages = await self._list_once(volumes, undecodable)
            as_before = names == last or (last is None and self.synced and names >= self.now.volumes.keys())
            last = names
            if pages == 1 or as_before:
                break
        return volumes, {uuid: why for uuid, why in undecodable.items() if uuid not in volumes}, last or set()

    async def _list_once(self, volumes: dict[str, shapes.Volume], undecodable: dict[str, str]) -> tuple[set[str], int]:
        """Read all pages; return the uuids and the number of pages."""
        names: set[str] = set()
        token, pages = 0, 0
        while True:
            page = await self._client.volumes(self._page_entries, token)
            pages += 1
            if pages > MAX_PAGES:
                told = f"more than {MAX_PAGES} pages, and no end of them"
                raise RestError("GET volumes", Refused(Meaning.UNREADABLE, 200, told=told))
            names |= {self._take(raw, volumes, undecodable) for raw in page.entries}
            if page.next_token is None or page.next_token <= token:
                return names, pages
            token = page.next_token

    def _take(self, raw: msgspec.Raw, volumes: dict[str, shapes.Volume], undecodable: dict[str, str]) -> str:
        try:
            volume = msgspec.json.decode(raw, type=shapes.Volume)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            uuid = _uuid_of(raw)
            if self.now.undecodable.get(uuid) != str(error) and undecodable.get(uuid) != str(error):
                self._log.warning("volume cannot be understood and is left out", volume=uuid, why=str(error))
            undecodable[uuid] = str(error)
            return uuid
        volumes[volume.spec.uuid] = volume
        return volume.spec.uuid

    async def _confirm(self, listed: dict[str, shapes.Volume], last: set[str]) -> set[str]:
        """Ask for those that were there and are missing now; let go of those that are gone, return the unasked."""
        missing = sorted((self.now.volumes.keys() | listed.keys()) - last)
        asked = missing[:CONFIRMED_A_ROUND]
        slots = asyncio.Semaphore(AT_ONCE)
        answers = await asyncio.gather(*(self._still_there(uuid, slots) for uuid in asked), return_exceptions=True)
        for uuid, answer in zip(asked, answers, strict=True):
            if isinstance(answer, BaseException):
                raise answer
            if answer is not None:
                listed[uuid] = answer
            else:
                listed.pop(uuid, None)
        return (set(missing[CONFIRMED_A_ROUND:]) & self.now.volumes.keys()) - listed.keys()

    async def _still_there(self, uuid: str, slots: asyncio.Semaphore) -> shapes.Volume | None:
        async with slots:
            try:
                return await self._client.volume(uuid)
            except RestError as error:
                if error.meaning is Meaning.GONE:
                    return None
                raise


def _uuid_of(raw: msgspec.Raw) -> str:
    try:
        return msgspec.json.decode(raw, type=shapes.NamedVolume).spec.uuid
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return "?"
