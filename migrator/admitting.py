"""
Letting in what waits: the verdicts of admission, carried out one after the other by whoever leads.

Whoever begins to lead first writes to every record that waits. An admission of the leader before that is still under
way rests on a version from before that, and meets a conflict: so no slot is given away twice. For the same reason it
is done again after any admission of which it is not known whether it happened.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import msgspec

from common.kube.api import KubeError
from common.resources.migration import AdmittedSettings, MigrationState, VolumeMigration
from migrator import records
from migrator.backends.base import BackendError
from migrator.core.admission import Admit, Caps, Queue, Reject, Surroundings, Verdict, decide
from migrator.core.model import END_STATES, End
from migrator.executor import Execution, NotLeaderError
from migrator.journal import Journal, JournalLostError, RecordGoneError, RequestChangedError, admitted


@dataclass(frozen=True, slots=True)
class Desk:
    """What admission asks of the leader."""

    identity: str
    """What the journal calls it."""
    settings_for: Callable[[VolumeMigration], AdmittedSettings]
    surroundings: Callable[[Mapping[str, int]], Surroundings]
    """By the caps of policies."""
    let_in: Callable[[VolumeMigration], None]
    """Is told of what was admitted."""
    ended: Callable[[VolumeMigration], Awaitable[None]]
    """Is told of what ended without beginning."""
    waiting: Callable[[int], None]
    """Is told how many wait."""
    again: Callable[[], None]
    """Is told that another pass should come soon."""


class Admission:
    """Lets in, in one term of leading."""

    def __init__(self, shared: Execution, roster: records.Roster, caps: Caps, desk: Desk) -> None:
        self._shared = shared
        self._roster = roster
        self._caps = caps
        self._desk = desk
        self.unfenced = True
        """Whether an admission may be under way of which nothing is known: then all is read, and fenced, at first."""

    def _check_lease(self) -> None:
        if not self._shared.lease.held:
            raise NotLeaderError("the lease is not held any more")

    async def fence(self, known: Iterable[VolumeMigration]) -> None:
        """Write to everything that waits, of what was just read. Raises NotLeaderError, KubeError."""
        for record in known:
            if record.status.state is MigrationState.PENDING:
                await self._fence(record)
        self.unfenced = False

    async def _fence(self, record: VolumeMigration) -> None:
        while record.status.state is MigrationState.PENDING:
            self._check_lease()
            journal = Journal(self._shared.api, record)
            try:
                await journal.take_up(self._desk.identity, self._shared.clock.now())
            except JournalLostError:
                found = await self._learn(record)
                if found is None:
                    return
                record = found
            else:
                self._roster.learn(journal.record)
                return

    async def admit(self, known: Iterable[VolumeMigration]) -> None:
        """
        Judge all that waits, and store the verdicts.

        Raises NotLeaderError, and KubeError where it is not known whether an admission happened.
        """
        waiting = {r.metadata.name: r for r in known if r.status.state is MigrationState.PENDING}
        verdicts: tuple[Verdict, ...] = ()
        if waiting:
            caps, unread = await self._policy_caps(waiting.values())
            world = replace(self._desk.surroundings(caps), unread_policies=unread, known=self._shared.backend.synced)
            verdicts = decide(known, self._caps, world, self._shared.clock.now())
        self._desk.waiting(sum(isinstance(verdict, Queue) for verdict in verdicts))
        for verdict in verdicts:
            await self._carry_out(verdict, waiting[verdict.name])

    async def _policy_caps(self, waiting: Iterable[VolumeMigration]) -> tuple[dict[str, int], dict[str, str]]:
        """Read the caps of policies; of those that cannot be read, why not."""
        caps: dict[str, int] = {}
        unread: dict[str, str] = {}
        for name in sorted({r.spec.policy_ref.name for r in waiting if r.spec.policy_ref is not None}):
            try:
                cap = await self._shared.objects.policy_cap(name)
            except BackendError as error:
                unread[name] = str(error)
            else:
                caps.update({name: cap} if cap is not None else {})
        return caps, unread

    async def _carry_out(self, verdict: Verdict, record: VolumeMigration) -> None:
        journal, name = Journal(self._shared.api, record), record.metadata.name
        self._check_lease()
        try:
            match verdict:
                case Admit():
                    await self._let_in(journal)
                case Reject():
                    end = End(END_STATES[verdict.reason], verdict.reason, verdict.detail)
                    await journal.end(end, self._shared.clock.now(), 0.0)
                    await self._desk.ended(journal.record)
                case Queue():
                    await self._let_wait(journal, verdict)
        except (JournalLostError, RequestChangedError) as error:
            self._shared.log.info("left alone in this pass", migration=name, why=str(error))
            await self._learn(record)
            self._desk.again()
        except KubeError as error:
            if isinstance(verdict, Admit):
                self.unfenced = True
                raise
            self._shared.log.warning("left as it was", migration=name, error=str(error))

    async def _learn(self, record: VolumeMigration) -> VolumeMigration | None:
        """Read a record that is not as it was known; None if it is gone."""
        try:
            found = await records.read_migration(self._shared.api, record.metadata.name)
        except RecordGoneError:
            self._roster.forget(record)
            return None
        self._roster.learn(found)
        return found

    async def _let_in(self, journal: Journal) -> None:
        await records.hold(self._shared.api, journal)
        self._check_lease()
        settings = self._desk.settings_for(journal.record)
        await journal.store(admitted(journal.status, settings, self._shared.clock.now()), again=False)
        self._roster.learn(journal.record)
        self._desk.let_in(journal.record)

    async def _let_wait(self, journal: Journal, verdict: Queue) -> None:
        status = msgspec.structs.replace(
            journal.status, reason=verdict.reason, message=verdict.detail, queue_position=verdict.position
        )
        if status != journal.status:
            await journal.store(status)
            self._roster.learn(journal.record)
