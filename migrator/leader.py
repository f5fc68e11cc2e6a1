"""
The one that executes: while it holds the lease it admits what waits, runs what is admitted, and clears up after ends.

It keeps no list of its own. Each pass looks at all records and does what they ask for; what runs here is known by the
tasks that run it, and a migration that is admitted and not run is begun, whoever admitted it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta

import msgspec

from common.backoff import Backoff
from common.clock import Clock
from common.durations import parse_duration
from common.kube.api import VOLUME_MIGRATIONS, ConflictError, KubeApi, KubeError, NotFoundError
from common.kube.events import EventRecorder, Regarding
from common.kube.lease import LeaseHolder
from common.logs import Logger
from common.reasons import Reason
from common.resources.migration import FINALIZER, AdmittedSettings, MigrationState, VolumeMigration
from migrator.annotations import pv_seen
from migrator.backends.base import BackendError
from migrator.core.admission import Admit, Caps, Queue, Reject, Surroundings, Verdict, decide
from migrator.core.history import read_history
from migrator.core.model import END_STATES, AnnotatePv, End, Outcome, Purpose
from migrator.core.retention import collectable
from migrator.executor import Execution, Executor, NotLeaderError
from migrator.journal import Journal, JournalLostError, RecordGoneError, admitted, decode_migration
from migrator.metrics import MigratorMetrics
from migrator.records import list_migrations


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
        self._lease = lease
        self._rules = rules
        self._events = events
        self._metrics = metrics
        self._rng = rng
        self._surroundings = surroundings
        self._copy = copy
        self._fresh = True
        """Whether the next pass reads all records afresh: the copy may not show what the leader before did."""
        self._ended: dict[str, VolumeMigration] = {}
        """Ends that the copy does not show yet."""
        self._running: dict[str, Executor] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._begun: dict[str, VolumeMigration] = {}
        """What each task began with."""
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
            self._fresh = True
            self._ended.clear()
            self._metrics.leading.set(1)
            working = asyncio.ensure_future(self._work())
            clearing = asyncio.ensure_future(self._take_over())
            lost = asyncio.ensure_future(self._lease.wait_lost())
            try:
                await asyncio.wait({working, lost}, return_when=asyncio.FIRST_COMPLETED)
                if working.done():
                    await working
            finally:
                lost.cancel()
                clearing.cancel()
                working.cancel()
                await asyncio.gather(working, clearing, return_exceptions=True)
                await self._stop_all()
                self._metrics.leading.set(0)
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

    async def _stop_all(self) -> None:
        tasks = tuple(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks.clear()
        self._begun.clear()
        self._running.clear()

    async def _work(self) -> None:
        backoff = Backoff(self._rng, first_seconds=0.5, cap_seconds=30.0)
        while self._lease.held:
            self._kick.clear()
            pause = self._rules.pass_seconds
            try:
                await self._pass()
                backoff.reset()
            except (KubeError, BackendError, JournalLostError) as error:
                pause = backoff.next_seconds()
                self._log.warning("pass interrupted", error=str(error), again_seconds=round(pause, 3))
                await self._clock.sleep(pause)
                continue
            await self._until_kicked(pause)

    async def _until_kicked(self, seconds: float) -> None:
        waits = (asyncio.ensure_future(self._kick.wait()), asyncio.ensure_future(self._clock.sleep(seconds)))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    # --- one pass ------------------------------------------------------------------------------------------------

    async def _pass(self) -> None:
        records = await self._records()
        for record in records:
            if record.active:
                self._start(record)
            elif record.status.state.terminal:
                await self._release(record)
        await self._admit(records)
        going = collectable(records, self._clock.now(), keep=self._rules.keep, keep_for=self._rules.keep_for)
        for record in going:
            await self._collect(record)

    async def _records(self) -> tuple[VolumeMigration, ...]:
        """List all records: as a watch tells of them, except for those that were written here since."""
        if self._fresh:
            records = await list_migrations(self._api, self._log)
            self._fresh = False
            return records
        copy = self._copy()
        self._ended = {
            name: record
            for name, record in self._ended.items()
            if name in copy and not copy[name].status.state.terminal
        }
        running = {name: executor.record for name, executor in self._running.items()}
        return tuple({**copy, **self._begun, **running, **self._ended}.values())

    async def _admit(self, records: tuple[VolumeMigration, ...]) -> None:
        waiting = {r.metadata.name: r for r in records if r.status.state is MigrationState.PENDING}
        verdicts: tuple[Verdict, ...] = ()
        if waiting:
            caps = await self._policy_caps(waiting.values())
            verdicts = decide(records, self._rules.caps, self._surroundings(caps), self._clock.now())
        self._metrics.queued.set(sum(isinstance(verdict, Queue) for verdict in verdicts))
        for verdict in verdicts:
            if not self._lease.held:
                return
            await self._carry_out(verdict, waiting[verdict.name])

    async def _policy_caps(self, waiting: Iterable[VolumeMigration]) -> dict[str, int]:
        names = {record.spec.policy_ref.name for record in waiting if record.spec.policy_ref is not None}
        caps = {name: await self._shared.objects.policy_cap(name) for name in sorted(names)}
        return {name: cap for name, cap in caps.items() if cap is not None}

    async def _carry_out(self, verdict: Verdict, record: VolumeMigration) -> None:
        journal = Journal(self._api, record)
        now = self._clock.now()
        try:
            match verdict:
                case Admit():
                    await self._finalize(journal)
                    await journal.store(admitted(record.status, self._settings_for(record), now))
                    self._log.info("admitted", migration=record.metadata.name, volume=record.spec.pv_name)
                    self._tell(journal.record, "Normal", "MigrationStarted", "Migrate", _way(record))
                    self._start(journal.record)
                case Reject():
                    state = END_STATES[verdict.reason]
                    await journal.end(End(state, verdict.reason, verdict.detail), now, 0.0)
                    await self._on_end(journal.record)
                case Queue():
                    status = msgspec.structs.replace(
                        record.status, reason=verdict.reason, message=verdict.detail, queue_position=verdict.position
                    )
                    if status != record.status:
                        await journal.store(status)
        except JournalLostError as error:
            self._log.info("left alone in this pass", migration=record.metadata.name, why=str(error))
            self.kick()

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

    # --- execution -----------------------------------------------------------------------------------------------

    def _start(self, record: VolumeMigration) -> None:
        name = record.metadata.name
        if name in self._tasks:
            return
        task = asyncio.ensure_future(self._execute(record))
        self._tasks[name] = task
        self._begun[name] = record

        def done(_: object) -> None:
            if self._tasks.get(name) is task:
                del self._tasks[name], self._begun[name]
            self.kick()

        task.add_done_callback(done)

    async def _execute(self, record: VolumeMigration) -> None:
        """Execute one migration until it ends or goes wrong; then the next pass begins it anew."""
        name = record.metadata.name
        identity = f"{self._lease.identity}/{self._rng.getrandbits(32):08x}"
        executor = Executor(self._shared, record, identity)
        self._running[name] = executor
        backoff = self._backoff.setdefault(name, Backoff(self._rng, first_seconds=0.2, cap_seconds=30.0))
        try:
            await executor.run()
        except NotLeaderError as error:
            self._log.info("stopped", migration=name, why=str(error))
        except RecordGoneError as error:
            await self._orphaned(executor.record, str(error))
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

    async def _orphaned(self, record: VolumeMigration, why: str) -> None:
        """
        Hold a volume whose record was taken away, finalizer and all, after something had been written for it.

        Without a journal nothing can be put back safely; so it is left as it is, and a person is told wherever one
        may look.
        """
        spec, status = record.spec, record.status
        if read_history(status).last_for(Purpose.SCALE_UP) is None:
            self._log.warning("record gone before anything was written", migration=record.metadata.name, why=why)
            return
        pools = ", ".join(move.target_pool for move in spec.moves)
        message = f"{why}; replica count and topology may be as the move left them, a replica may be left on {pools}"
        self._log.error("record lost", migration=record.metadata.name, volume=spec.pv_name, detail=message)
        ended = msgspec.structs.replace(status, state=MigrationState.FAILED, reason=Reason.RECORD_LOST, message=message)
        self._metrics.ended(msgspec.structs.replace(record, status=ended))
        self._tell(record, "Warning", f"Migration{ended.state}", "Migrate", f"{ended.reason}: {message}")
        write = AnnotatePv(
            time=self._clock.now(),
            from_pools=tuple(move.source.pool for move in spec.moves),
            to_pools=tuple(move.target_pool for move in spec.moves),
            result=Reason.RECORD_LOST,
            parked=f"{Reason.RECORD_LOST}: {record.metadata.name}",
        )
        backoff = Backoff(self._rng, first_seconds=0.2, cap_seconds=30.0)
        while self._lease.held:
            try:
                pv = await self._shared.objects.volume(spec.pv_name)
            except BackendError as error:
                self._log.warning("not parked yet", volume=spec.pv_name, error=str(error))
            else:
                if pv is None or (await self._shared.objects.annotate(spec.pv_name, write, pv_seen(pv))).outcome is (
                    Outcome.DONE
                ):
                    return
            await self._clock.sleep(backoff.next_seconds())

    async def _on_end(self, record: VolumeMigration) -> None:
        status = record.status
        self._ended[record.metadata.name] = record
        self._metrics.ended(record)
        self._log.info(
            "ended",
            migration=record.metadata.name,
            volume=record.spec.pv_name,
            state=status.state,
            reason=status.reason,
            detail=status.message,
        )
        kind = "Normal" if status.state is MigrationState.COMPLETED else "Warning"
        self._tell(record, kind, f"Migration{status.state}", "Migrate", f"{status.reason}: {status.message}")
        with contextlib.suppress(KubeError):  # the next pass sees to it
            await self._release(record)

    def _tell(self, record: VolumeMigration, kind: str, reason: str, action: str, note: str) -> None:
        about = (
            Regarding("VolumeMigration", VOLUME_MIGRATIONS.api_version, record.metadata.name, record.metadata.uid),
            Regarding("PersistentVolume", "v1", record.spec.pv_name, record.status.pv_uid),
        )
        for regarding in about:
            self._events.emit(
                regarding,
                type="Normal" if kind == "Normal" else "Warning",
                reason=reason,
                action=action,
                note=note[:1000],
            )

    # --- clearing up ---------------------------------------------------------------------------------------------

    async def _finalize(self, journal: Journal) -> None:
        """A record that somebody wrote by hand gets the finalizer before anything is done for it."""
        meta = journal.record.metadata
        if FINALIZER in (meta.finalizers or ()):
            return
        body = {
            "metadata": {
                "resourceVersion": meta.resource_version,
                "finalizers": [*(meta.finalizers or ()), FINALIZER],
            }
        }
        try:
            raw = await self._api.patch(VOLUME_MIGRATIONS, meta.name, body)
        except (ConflictError, NotFoundError) as error:
            raise JournalLostError(f"{meta.name}: changed while it was admitted") from error
        journal.record = decode_migration(raw)

    async def _release(self, record: VolumeMigration) -> None:
        """An ended record keeps nobody from deleting it."""
        meta = record.metadata
        if FINALIZER not in (meta.finalizers or ()):
            return
        left = [finalizer for finalizer in meta.finalizers or () if finalizer != FINALIZER]
        body = {"metadata": {"resourceVersion": meta.resource_version, "finalizers": left or None}}
        try:
            await self._api.patch(VOLUME_MIGRATIONS, meta.name, body)
        except (NotFoundError, ConflictError):
            return  # gone, or changed: the next pass sees it as it is then

    async def _collect(self, record: VolumeMigration) -> None:
        meta = record.metadata
        try:
            await self._api.delete(VOLUME_MIGRATIONS, meta.name, uid=meta.uid)
        except (NotFoundError, ConflictError):
            return
        self._log.info("record collected", migration=meta.name, volume=record.spec.pv_name)


def _way(record: VolumeMigration) -> str:
    way = ", ".join(f"{move.source.pool} to {move.target_pool}" for move in record.spec.moves)
    return f"moving from {way}" + (f" ({record.spec.reason})" if record.spec.reason else "")
