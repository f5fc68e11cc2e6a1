"""
The one that executes: while it holds the lease it admits what waits, runs what is admitted, and clears up after ends.

It keeps no list of its own. Each pass looks at all records and does what they ask for; what runs here is known by the
tasks that run it, and a migration that is admitted and not run is begun, whoever admitted it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from common.backoff import Backoff
from common.clock import Clock
from common.durations import parse_duration
from common.kube.api import KubeApi, KubeError
from common.kube.events import EventRecorder
from common.kube.lease import LeaseHolder
from common.logs import Logger
from common.resources.migration import FINALIZER, AdmittedSettings, VolumeMigration
from migrator import orphans, records
from migrator.admitting import Admission, Desk
from migrator.announcements import Announcements
from migrator.backends.base import BackendError
from migrator.core.admission import Caps, Surroundings
from migrator.core.retention import collectable
from migrator.executor import Execution, Executor, NotLeaderError
from migrator.journal import JournalLostError, RecordGoneError
from migrator.metrics import MigratorMetrics

QUIET_SECONDS = 0.05
"""Changes of records within this time are looked at together."""


@dataclass(frozen=True, slots=True)
class Rules:
    """Settings of the leader; what concerns a migration is journaled when it is admitted."""

    caps: Caps
    timeout_seconds: float
    poll_seconds: float
    dry_run: bool
    preservation: bool
    pass_seconds: float
    """Pause between two passes, at the most."""
    keep: int
    """Ended records that are kept, besides the newest of each volume."""
    keep_for: timedelta
    operation_seconds: float = 15.0
    """rest: a write that was not answered takes effect within this, if ever."""
    lease_seconds: float = 15.0
    """rest: a leader before may still write for so long after another has taken over."""


class Leader:
    """Runs while `run` runs; works while the lease is held."""

    def __init__(
        self,
        shared: Execution,
        lease: LeaseHolder,
        rules: Rules,
        *,
        events: EventRecorder,
        metrics: MigratorMetrics,
        rng: random.Random,
        surroundings: Callable[[Mapping[str, int]], Surroundings],
        copy: Callable[[], Mapping[str, VolumeMigration]],
    ) -> None:
        """`copy` gives the records as a watch tells of them, by name."""
        self._shared = shared
        """With the lease of one term: what was begun in another is over."""
        self._lease = lease
        self._rules = rules
        self._metrics = metrics
        self._rng = rng
        self._announce = Announcements(events, metrics, shared.log)
        self._roster = records.Roster(copy)
        self._desk = Desk(
            identity=lease.identity,
            settings_for=self._settings_for,
            surroundings=surroundings,
            let_in=self._let_in,
            ended=self._on_end,
            waiting=metrics.queued.set,
            again=self.kick,
        )
        self._running: dict[str, Executor] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        """What executes migrations, by name."""
        self._aside: set[asyncio.Task[None]] = set()
        """What else goes on for as long as we lead."""
        self._kick = asyncio.Event()
        self._backoff: dict[str, Backoff] = {}

    @property
    def _api(self) -> KubeApi:
        return self._shared.api

    @property
    def _clock(self) -> Clock:
        return self._shared.clock

    @property
    def _log(self) -> Logger:
        return self._shared.log

    @property
    def leads(self) -> bool:
        """Whether whatever was begun under it may still write."""
        return self._shared.lease.held

    def kick(self) -> None:
        """Something changed among the records: look at once."""
        self._kick.set()

    def wake(self, volumes: frozenset[str], pools: frozenset[str]) -> None:
        """Volumes or pools changed: those who wait for them look at once."""
        for executor in self._running.values():
            spec = executor.record.spec
            if spec.pv_name in volumes or any(move.target_pool in pools for move in spec.moves):
                executor.wake()

    def wake_migration(self, name: str) -> None:
        """The request of a migration changed."""
        if name in self._running:
            self._running[name].wake()

    async def run(self) -> None:
        """Lead whenever the lease is held, forever."""
        while True:
            await self._lease.wait_held()
            self._log.info("leading")
            self._shared = replace(self._shared, lease=self._lease.term)
            self._metrics.leading.set(1)
            working = asyncio.ensure_future(self._work())
            lost = asyncio.ensure_future(self._lease.wait_lost())
            self._beside(self._take_over())
            try:
                await asyncio.wait({working, lost}, return_when=asyncio.FIRST_COMPLETED)
                if working.done():
                    await working
            finally:
                lost.cancel()
                working.cancel()
                await asyncio.gather(working, return_exceptions=True)
                await self._stop_all()
                self._metrics.leading.set(0)
                self._metrics.queued.set(0)
            self._log.warning("not leading any more")

    async def _take_over(self) -> None:
        """Clear away what a leader before may have left; begun anew if it breaks, for nothing may go on without it."""
        backoff = Backoff(self._rng, first_seconds=1.0, cap_seconds=60.0)
        while True:
            try:
                await self._shared.backend.take_over()
            except Exception as error:  # noqa: BLE001 - the migrations under way must go on all the same
                pause = backoff.next_seconds()
                self._log.exception(
                    "taking over broke", error=f"{type(error).__name__}: {error}", again_seconds=round(pause, 3)
                )
                await self._clock.sleep(pause)
            else:
                return

    def _beside(self, work: Coroutine[Any, Any, None]) -> None:
        """Let something go on beside all else, until it is done or we lead no more."""
        task = asyncio.ensure_future(work)
        self._aside.add(task)
        task.add_done_callback(self._aside.discard)

    async def _stop_all(self) -> None:
        tasks = (*self._tasks.values(), *self._aside)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks.clear()
        self._running.clear()

    async def _work(self) -> None:
        backoff = Backoff(self._rng, first_seconds=0.5, cap_seconds=30.0)
        admission = Admission(self._shared, self._roster, self._rules.caps, self._desk)
        while self.leads:
            self._kick.clear()
            try:
                await self._pass(admission)
                backoff.reset()
            except NotLeaderError:
                return
            except (KubeError, BackendError, JournalLostError) as error:
                pause = backoff.next_seconds()
                self._log.warning("pass interrupted", error=str(error), again_seconds=round(pause, 3))
                await self._clock.sleep(pause)
            else:
                await self._until_kicked(self._rules.pass_seconds)
                await self._clock.sleep(QUIET_SECONDS)

    async def _until_kicked(self, seconds: float) -> None:
        waits = (asyncio.ensure_future(self._kick.wait()), asyncio.ensure_future(self._clock.sleep(seconds)))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def _pass(self, admission: Admission) -> None:
        if admission.unfenced:
            known = await self._roster.read(self._api, self._log)
            self._start_all(known)
            await admission.fence(known)
        known = self._roster.look()
        self._start_all(known)
        await admission.admit(known)
        await self._clear_up(known)

    # --- execution -----------------------------------------------------------------------------------------------

    def _settings_for(self, record: VolumeMigration) -> AdmittedSettings:
        timeout = self._rules.timeout_seconds
        try:
            timeout = parse_duration(record.spec.timeout or "0").total_seconds() or timeout
        except ValueError as error:  # only where the API server does not have our schema
            self._log.warning("timeout ignored", migration=record.metadata.name, why=str(error))
        return AdmittedSettings(
            dry_run=self._rules.dry_run or record.spec.dry_run,
            preservation=self._rules.preservation,
            timeout_seconds=timeout,
            poll_seconds=self._rules.poll_seconds,
            read_gap_seconds=self._shared.backend.read_gap_seconds,
            backend=self._shared.backend.kind,
            operation_seconds=self._rules.operation_seconds,
            lease_seconds=self._rules.lease_seconds,
        )

    def _let_in(self, record: VolumeMigration) -> None:
        self._announce.began(record)
        self._start(record)

    def _start_all(self, known: Iterable[VolumeMigration]) -> None:
        for record in known:
            if record.active:
                self._start(record)

    def _start(self, record: VolumeMigration) -> None:
        name = record.metadata.name
        if name in self._tasks:
            return
        task = asyncio.ensure_future(self._execute(record))
        self._tasks[name] = task

        def done(_: object) -> None:
            if self._tasks.get(name) is task:
                del self._tasks[name]
            self.kick()

        task.add_done_callback(done)

    async def _execute(self, known: VolumeMigration) -> None:
        """Execute one migration until it ends or goes wrong; then the next pass begins it anew."""
        name = known.metadata.name
        backoff = self._backoff.setdefault(name, Backoff(self._rng, first_seconds=0.2, cap_seconds=30.0))
        try:
            record = await self._read(known)
            if not record.active:
                return  # what was known of it was old
            executor = Executor(self._shared, record, f"{self._lease.identity}/{self._rng.getrandbits(32):08x}")
            self._running[name] = executor
            await executor.run()
        except NotLeaderError as error:
            self._log.info("stopped", migration=name, why=str(error))
        except RecordGoneError as error:
            self._orphaned(self._running[name].record if name in self._running else known, str(error))
        except (KubeError, BackendError, JournalLostError) as error:
            pause = backoff.next_seconds()
            self._log.warning("begun anew", migration=name, error=str(error), in_seconds=round(pause, 3))
            await self._clock.sleep(pause)
        except Exception as error:  # noqa: BLE001 - one migration that cannot be executed must not stop the others
            pause = max(5.0, backoff.next_seconds())
            self._log.exception("execution broke", migration=name, error=f"{type(error).__name__}: {error}")
            await self._clock.sleep(pause)
        else:
            self._backoff.pop(name, None)
            await self._on_end(executor.record)
        finally:
            self._running.pop(name, None)

    async def _read(self, known: VolumeMigration) -> VolumeMigration:
        """Read a record before it is executed."""
        found = await records.read_migration(self._api, known.metadata.name)
        if found.metadata.uid != known.metadata.uid:
            raise RecordGoneError(f"{known.metadata.name}: its record is gone, another has its name")
        self._roster.learn(found)
        return found

    def _orphaned(self, record: VolumeMigration, why: str) -> None:
        """See to a volume whose record was taken away; whoever does not lead any more cannot tell that from an end."""
        if not self.leads:
            return
        self._roster.forget(record)
        self._backoff.pop(record.metadata.name, None)
        if self._announce.has_told(record):
            return  # it came to its end before, and a list that was long on its way did not know
        if not orphans.was_written_for(record):
            self._log.warning("record gone before anything was written", migration=record.metadata.name, why=why)
            return
        self._log.error("record lost", migration=record.metadata.name, volume=record.spec.pv_name, why=why)
        self._announce.ended(orphans.lost(record, why))
        self._beside(orphans.park(self._shared, record, self._rng))

    # --- clearing up ---------------------------------------------------------------------------------------------

    async def _on_end(self, record: VolumeMigration) -> None:
        self._roster.learn(record)
        self._announce.ended(record)
        if FINALIZER not in (record.metadata.finalizers or ()) or not self.leads:
            return
        try:
            free = await records.let_go(self._api, record)
        except KubeError as error:
            self._log.warning("finalizer not taken off yet", migration=record.metadata.name, error=str(error))
            return
        if free is not None:
            self._roster.learn(free)

    async def _clear_up(self, known: Iterable[VolumeMigration]) -> None:
        for record in known:
            if record.status.state.terminal and FINALIZER in (record.metadata.finalizers or ()):
                await self._on_end(record)  # perhaps one whose end was stored by somebody who died before telling
        going = collectable(known, self._clock.now(), keep=self._rules.keep, keep_for=self._rules.keep_for)
        for record in going:
            if not self.leads:
                return
            try:
                there = await records.remove(self._api, record)
            except KubeError as error:
                self._log.warning("record not collected yet", migration=record.metadata.name, error=str(error))
                return
            if there:
                self._log.info("record collected", migration=record.metadata.name, volume=record.spec.pv_name)
            self._announce.forget(record)
            self._roster.forget(record)
