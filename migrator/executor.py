"""
Performs what the core decides about one migration: read the world, ask, store the intent, ask again, act, store what
came of it.

Nothing here knows what a migration is. That the second asking comes after the intent is stored is what makes a decision
to act rest on a read that is younger than the intent; that every beginning is written down first is what tells a write
that was never made from one of which nobody knows. Anything unexpected ends the execution; the next one begins from
the journal, as after a crash.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Protocol

from common.clock import Clock
from common.kube.api import KubeApi
from common.logs import Logger
from common.resources.migration import AdmittedSettings, MigrationState, VolumeMigration
from migrator.annotations import ClusterObjects, pv_seen
from migrator.backends.base import Backend, BackendError, Result
from migrator.core.model import (
    AnnotatePv,
    Conclude,
    Do,
    End,
    Now,
    Outcome,
    PolicySeen,
    ReleaseLevers,
    Seen,
    SwitchOff,
    Wait,
)
from migrator.core.steps import next_step
from migrator.journal import Journal, RequestChangedError

QUIET_SECONDS = 0.2
"""Changes that a watch tells of within this time are looked at together."""


class NotLeaderError(Exception):
    """The lease is not surely ours any more: nothing more may be written."""


class Lease(Protocol):
    """What the executor asks of a lease."""

    @property
    def held(self) -> bool:
        """Whether it is surely ours at this moment."""
        ...


async def nothing_to_switch(write: SwitchOff) -> Result:
    """Of a backend without levers."""
    return Result(Outcome.REFUSED, f"there is nothing that {', '.join(write.abilities)} could be switched off of")


@dataclass(frozen=True, slots=True)
class Execution:
    """What all executions of one process share."""

    api: KubeApi
    backend: Backend
    objects: ClusterObjects
    lease: Lease
    clock: Clock
    log: Logger
    on_write: Callable[[str, str], None] = lambda _kind, _outcome: None
    """Is told of every outside write and what came of it."""
    switch_off: Callable[[SwitchOff], Awaitable[Result]] = nothing_to_switch


class Executor:
    """One execution of one migration."""

    def __init__(self, shared: Execution, record: VolumeMigration, identity: str) -> None:
        settings = record.status.settings
        if settings is None:
            raise ValueError(f"{record.metadata.name}: was never admitted")
        self._shared = shared
        self._settings: AdmittedSettings = settings
        self._identity = identity
        self._journal = Journal(shared.api, record)
        self._changed = asyncio.Event()
        self._log = shared.log.bind(migration=record.metadata.name, volume=record.spec.pv_name)
        self._counted = record.status.elapsed_seconds
        self._since = shared.clock.monotonic()

    @property
    def record(self) -> VolumeMigration:
        """The migration as it is known here."""
        return self._journal.record

    def wake(self) -> None:
        """Something changed: look again."""
        self._changed.set()

    def _elapsed(self) -> float:
        return round(self._counted + self._shared.clock.monotonic() - self._since, 3)

    async def run(self) -> End:
        """
        Execute it to its end.

        Raises NotLeaderError, JournalLostError, BackendError, KubeError; after any of them it may be begun anew.
        """
        self._check_lease()
        self._check_backend()
        await self._journal.take_up(self._identity, self._shared.clock.now())
        earlier: Seen | None = None
        while True:
            seen = replace(await self._look(), earlier=earlier)
            now = Now(self._shared.clock.now(), self._elapsed())
            decision = next_step(self._settings, self._journal.record, seen, now)
            self._check_lease()
            match decision:
                case Do():
                    await self._do(decision, seen, now)
                    earlier = None
                case Conclude():
                    self._log.info("write concluded", number=decision.number, outcome=decision.outcome)
                    await self._journal.conclude(decision, now.wall, now.elapsed)
                    earlier = None
                case Wait():
                    await self._wait(decision, now)
                    # Kept until there is one far enough from it: two reads close together may be one and the same.
                    if earlier is None or seen.began - earlier.ended >= self._settings.read_gap_seconds:
                        earlier = replace(seen, earlier=None)
                case End():
                    await self._journal.end(decision, now.wall, now.elapsed)
                    return decision

    def _check_lease(self) -> None:
        if not self._shared.lease.held:
            raise NotLeaderError(f"{self._journal.name}: the lease is not held any more")

    def _check_backend(self) -> None:
        """What one backend began the other could not go on with: their journals speak of other things."""
        kind, admitted = self._shared.backend.kind, self._settings.backend
        if kind is not admitted:
            raise BackendError(
                f"{self._journal.name}: begun with --backend={admitted}, and this is {kind}; "
                f"run with --backend={admitted} until it has ended"
            )

    # --- looking -------------------------------------------------------------------------------------------------

    async def _look(self) -> Seen:
        """Read afresh all that a decision may rest on."""
        self._changed.clear()
        began = self._elapsed()
        await self._journal.refresh()
        spec = self.record.spec
        pools = {name for move in spec.moves for name in (move.source.pool, move.target_pool)}
        reading, pv, policy = await asyncio.gather(
            self._shared.backend.read(spec.pv_name, pools | self._known_pools()),
            self._shared.objects.volume(spec.pv_name),
            self._policy(),
        )
        return Seen(
            began=began,
            ended=self._elapsed(),
            volume=reading.volume,
            pools=reading.pools,
            rest=reading.rest,
            pv=pv_seen(pv) if pv is not None else None,
            policy=policy,
        )

    def _known_pools(self) -> set[str]:
        status = self.record.status
        return {replica.pool for replica in (*status.original_replicas, *status.new_replicas)}

    async def _policy(self) -> PolicySeen | None:
        ref = self.record.spec.policy_ref
        beginning = self.record.status.state in {MigrationState.ANALYZING, MigrationState.SCALING_UP}
        return await self._shared.objects.policy(ref.name) if ref is not None and beginning else None

    # --- acting --------------------------------------------------------------------------------------------------

    async def _do(self, decision: Do, seen: Seen, now: Now) -> None:
        pending = self._journal.history.pending
        if pending is None or pending.write != decision.write:
            with contextlib.suppress(RequestChangedError):  # a cancel came in: it is decided anew
                await self._journal.intend(decision, seen, now.wall, now.elapsed)
            return
        kind = type(decision.write).__name__
        self._check_lease()
        result = await self._perform(decision, seen)
        self._log.info("write", kind=kind, outcome=result.outcome, detail=result.detail, what=decision.detail)
        self._shared.on_write(kind, result.outcome)
        await self._journal.learn(pending.number, result, self._shared.clock.now(), self._elapsed())

    async def _perform(self, decision: Do, seen: Seen) -> Result:
        write = decision.write
        if isinstance(write, SwitchOff):
            return await self._shared.switch_off(write)
        if isinstance(write, AnnotatePv):
            if seen.pv is None:
                raise ValueError(f"{self._journal.name}: would annotate a PersistentVolume that is not there")
            return await self._shared.objects.annotate(self.record.spec.pv_name, write, seen.pv)
        if seen.volume is None and not isinstance(write, ReleaseLevers):
            raise ValueError(f"{self._journal.name}: would write to a volume that is not there")
        return await self._shared.backend.perform(write, seen.volume)

    # --- waiting -------------------------------------------------------------------------------------------------

    async def _wait(self, decision: Wait, now: Now) -> None:
        await self._journal.wait(decision, now.wall, now.elapsed)
        self._log.debug("waiting", reason=decision.reason, detail=decision.detail, seconds=decision.seconds)
        quiet = min(QUIET_SECONDS, decision.seconds)
        if not decision.wakeable or decision.seconds <= quiet:
            await self._shared.clock.sleep(decision.seconds)
            return
        await self._shared.clock.sleep(quiet)
        await self._sleep_until_changed(decision.seconds - quiet)

    async def _sleep_until_changed(self, seconds: float) -> None:
        waits = {
            asyncio.ensure_future(self._changed.wait()),
            asyncio.ensure_future(self._shared.clock.sleep(seconds)),
        }
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            for wait in waits:
                with contextlib.suppress(asyncio.CancelledError):
                    await wait
