"""
An adversary of the services as they run for real: it kills their processes, and what they stand on, at bad moments.

A keeper starts what died again, as a kubelet does. A death comes a random while after some migration entered a state
that is chosen by chance, so that short phases are met as often as long ones and there is something new to lose at each.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from io import StringIO
from random import Random
from typing import Final

import msgspec

from common.clock import Clock
from common.kube.api import LEASES, VOLUME_MIGRATIONS, KubeApi, KubeError
from common.kube.reflector import Reflector
from common.logs import make_logger
from common.resources.migration import MigrationState
from sandbox.demo.observer import Record
from sandbox.real.process import Process, ProcessError

LOOK_SECONDS: Final = 0.05
PATIENCE_SECONDS: Final = 4.0
"""For so long a moment is waited for; then another will do."""
UNDER_WAY: Final = (
    MigrationState.ANALYZING,
    MigrationState.SCALING_UP,
    MigrationState.WAITING_SYNC,
    MigrationState.SCALING_DOWN,
)
SPANS: Final[Mapping[MigrationState, float]] = {MigrationState.ANALYZING: 0.03, MigrationState.SCALING_UP: 0.15}
"""How long after its beginning a phase is met at the latest, where it is a short one; seconds."""
LONG_SPAN: Final = 0.8


class Kept:
    """One replica of a service, which a keeper starts again whenever it is gone."""

    def __init__(self, name: str, process: Process, rng: Random) -> None:
        self.name = name
        self.process = process
        self._rng = rng
        self.faults: list[str] = []
        """Deaths that were not by SIGKILL: its own doing."""

    async def keep(self) -> None:
        """Start it whenever it does not run, until cancelled."""
        while True:
            if self.process.pid is None:
                if self.process.exit_code not in {None, -signal.SIGKILL}:
                    self.faults.append(f"{self.name} ended with {self.process.exit_code}: {self.process.last_words()}")
                await asyncio.sleep(self._rng.uniform(0.0, 1.0))
                with contextlib.suppress(ProcessError):  # it died before it was ready: seen in the next round
                    await self.process.start()
            await asyncio.sleep(LOOK_SECONDS)

    async def kill(self) -> bool:
        """Kill it, wherever it is; tell whether there was anything to kill."""
        if self.process.pid is None:
            return False
        await self.process.kill()
        return True


class Watcher:
    """Sees the states of migrations change, as a watch tells of them."""

    def __init__(self, api: KubeApi, clock: Clock, rng: Random) -> None:
        log = make_logger("watcher", level="WARNING", json=True, stream=StringIO(), clock=clock)
        self._reflector = Reflector(
            api, VOLUME_MIGRATIONS, Record, clock=clock, rng=rng, log=log, on_change=self._on_change
        )
        self._changed: asyncio.Queue[Record] = asyncio.Queue()
        self.on_state: Callable[[Record], None] = lambda _: None

    @property
    def records(self) -> Iterable[Record]:
        return self._reflector.items.values()

    @property
    def ended(self) -> int:
        return sum(record.status.state.terminal for record in self.records)

    @property
    def phases(self) -> Counter[MigrationState]:
        """How many migrations are in each of the states in which something is under way."""
        return Counter(record.status.state for record in self.records if record.status.state in UNDER_WAY)

    async def run(self) -> None:
        await self._reflector.run()

    def _on_change(self, _key: str, old: Record | None, new: Record | None) -> None:
        if new is not None and (old is None or old.status.state != new.status.state):
            self._changed.put_nowait(new)
            self.on_state(new)

    async def enters(self, wanted: MigrationState) -> MigrationState:
        """
        Wait until a migration enters a state, and return it.

        Where none does for a while, whichever state the next one enters will do; and where nothing goes on, any moment.
        """
        while not self._changed.empty():
            self._changed.get_nowait()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_SECONDS):
                while (await self._changed.get()).status.state is not wanted:
                    pass
                return wanted
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_SECONDS):
                return (await self._changed.get()).status.state
        return wanted

    async def until_ended(self, count: int) -> None:
        while self.ended < count:  # noqa: ASYNC110 - it comes about elsewhere
            await asyncio.sleep(LOOK_SECONDS)


@dataclass
class Adversary:
    """Kills one of several replicas, most of the time the one that leads, again and again."""

    api: KubeApi
    watcher: Watcher
    victims: Sequence[Kept]
    lease: str
    namespace: str
    rng: Random
    kills: int = 0
    met: Counter[MigrationState] = field(default_factory=Counter)
    """How often a death met a migration in each state: what was under way when its executor died."""
    leader: str = ""
    """Whoever led when the lease could last be read."""

    async def run(self, most: int) -> None:
        """Go on until there were so many kills."""
        wanted: list[MigrationState] = []
        while self.kills < most:
            if not wanted:
                wanted = list(UNDER_WAY)
                self.rng.shuffle(wanted)
            await self._find_leader()
            state = await self.watcher.enters(wanted.pop())
            await asyncio.sleep(self.rng.uniform(0.0, SPANS.get(state, LONG_SPAN)))
            if state not in SPANS:
                await self._find_leader()  # in a short phase there is no time for that
            for victim in self._choose():
                if await victim.kill():
                    self.kills += 1
                    if victim.name == self.leader:
                        self.met.update(self.watcher.phases)

    def _choose(self) -> list[Kept]:
        leading = [victim for victim in self.victims if victim.name == self.leader]
        others = [victim for victim in self.victims if victim.name != self.leader]
        chance = self.rng.random()
        if chance < 0.1:
            return [*leading, *others]
        return others[:1] if chance < 0.25 or not leading else leading

    async def _find_leader(self) -> None:
        with contextlib.suppress(KubeError, TimeoutError):
            async with asyncio.timeout(1.0):
                lease = msgspec.json.decode(await self.api.get(LEASES, self.lease, self.namespace))
            self.leader = lease["spec"].get("holderIdentity") or ""


Outage = tuple[int, Callable[[], Awaitable[None]]]
"""After so many migrations have ended, this happens."""


async def break_down(watcher: Watcher, outages: Sequence[Outage]) -> None:
    """Let what the services stand on break, one thing after the other."""
    for ended, happen in outages:
        await watcher.until_ended(ended)
        await happen()


async def restart(process: Process, away_seconds: float) -> None:
    """Kill what is no service of ours, and start it again where it was."""
    await process.kill()
    await asyncio.sleep(away_seconds)
    await process.start()
