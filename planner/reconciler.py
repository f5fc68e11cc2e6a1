"""
Plans, acted upon: one worker that goes round the policies.

A policy is due after an interval, and sooner when its spec changes, when somebody asks, when a move of it has ended,
when something went wrong. Whatever the cause, the same round follows: look at the world, plan, ask for the moves, write
the status once. Only the holder of the lease acts; what fails for one volume or one policy stops no other.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final, Protocol

from msgspec import structs

from common.clock import Clock
from common.kube.api import STORAGE_POLICIES, KubeApi, KubeError, NotFoundError
from common.kube.events import EventRecorder, Regarding
from common.logs import Logger
from common.reasons import Reason
from common.resources.meta import RECONCILE_AT
from common.resources.migration import MigrationState
from common.resources.policy import Policy, PolicyDocument, PolicyStatus
from planner.core.case import Held
from planner.core.past import request_id
from planner.core.plan import Decision, Outcome, Plan, plan
from planner.core.world import HeatQuality, MigrationRecord, World
from planner.due import DueQueue
from planner.metrics import PlannerMetrics
from planner.migrator_client import Migrator, MigratorUnreachableError
from planner.status import changed_conditions, status_after, status_body
from planner.survey import Survey, think

COMPONENT: Final = "couchestor-planner"


class Lease(Protocol):
    """What is asked of the lease."""

    @property
    def held(self) -> bool: ...

    async def wait_held(self) -> None: ...

    async def wait_lost(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Timing:
    """How often, in seconds."""

    interval: float = 300.0
    after_move: float = 2.0
    after_error: float = 60.0
    not_after: float = 600.0
    """How long after its plan a move may still be begun."""


@dataclass(slots=True)
class Acted:
    """What became of a plan's moves, by volume."""

    started: dict[str, MigrationRecord] = field(default_factory=dict)
    refused: dict[str, Held] = field(default_factory=dict)
    unreachable: Held | None = None


class NotLeadingError(Exception):
    """Another replica holds the lease."""


class Reconciler:
    """Goes round the policies; `run` does so until it is cancelled."""

    def __init__(
        self,
        api: KubeApi,
        survey: Survey,
        migrator: Migrator,
        lease: Lease,
        *,
        clock: Clock,
        log: Logger,
        events: EventRecorder,
        metrics: PlannerMetrics,
        timing: Timing,
    ) -> None:
        self._api = api
        self._survey = survey
        self._cluster = survey.cluster
        self._migrator = migrator
        self._lease = lease
        self._clock = clock
        self._log = log
        self._events = events
        self._metrics = metrics
        self._timing = timing
        self._turn = asyncio.Lock()
        self.queue = DueQueue(clock)
        self.last: dict[str, Plan] = {}
        """The last plan of each policy, as it was acted upon."""

    async def run(self) -> None:
        """Go round, forever."""
        await self._cluster.wait_synced()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._lead())
            group.create_task(self._work())

    @property
    def leading(self) -> bool:
        return self._lease.held

    def policy_changed(self, old: PolicyDocument | None, new: PolicyDocument | None) -> None:
        """Take note of a policy: a spec that changed, or a wish to be looked at, makes it due."""
        if new is None:
            if old is not None:
                self._forget(old.metadata.name)
            return
        if old is None or _occasion(old) != _occasion(new):
            self.queue.add(new.metadata.name)

    def migration_changed(self, old: MigrationRecord | None, new: MigrationRecord | None) -> None:
        """Take note of a migration: its end makes its policy due."""
        if old is None or new is None or not old.active or not new.is_real_end:
            return
        if new.policy_name not in self._cluster.policies:
            return
        well = new.state is MigrationState.COMPLETED
        if not well:
            self._log.warning(
                "a move ended without completing",
                volume=new.pv_name,
                migration=new.name,
                policy=new.policy_name,
                state=new.state.value,
                reason=new.reason,
            )
        self.queue.add(new.policy_name, self._timing.after_move if well else self._timing.after_error)

    def placements_known(self) -> None:
        """Take note that volumes are seen again: what stood still for want of that is due."""
        self._all_due()

    async def reconcile_now(self, policy: str) -> Plan:
        """
        Go through one round for a policy, now.

        Raises NotLeadingError, KeyError if there is no such policy, and KubeError if its status could not be written.
        A caller that gives up does not stop a round that has begun.
        """
        return await asyncio.shield(asyncio.ensure_future(self._round(policy)))

    def _all_due(self) -> None:
        for name in self._cluster.policies:
            self.queue.add(name)

    def _forget(self, policy: str) -> None:
        self.queue.forget(policy)
        self.last.pop(policy, None)
        self._metrics.forget(policy)

    async def _lead(self) -> None:
        while True:
            await self._lease.wait_held()
            self._all_due()
            await self._lease.wait_lost()
            # What was decided here is the past of another's reconciles now.
            for name in tuple(self.last):
                self._forget(name)

    async def _work(self) -> None:
        while True:
            policy = await self.queue.get()
            try:
                await self._round(policy)
            except NotLeadingError:
                continue  # the leader has its own queue
            except KeyError:
                self._forget(policy)
            except KubeError as error:
                self._log.warning("reconcile failed", policy=policy, error=str(error))
            except Exception:  # noqa: BLE001 - one policy's trouble, whatever it is, must stop no other
                self._log.exception("reconcile crashed", policy=policy)
                self.queue.add(policy, self._timing.after_error)

    async def _round(self, policy: str) -> Plan:
        async with self._turn:
            if not self._lease.held:
                raise NotLeadingError
            began = self._clock.monotonic()
            self.queue.forget(policy)
            self._metrics.reconciles.inc()
            wait = self._timing.after_error
            try:
                done, troubled = await self._reconcile(policy)
                wait = self._timing.after_error if troubled else self._timing.interval
                return done
            except KeyError:
                wait = float("inf")
                raise
            finally:
                self._metrics.seconds.observe(self._clock.monotonic() - began)
                if wait != self._timing.interval:
                    self._metrics.errors.inc()
                if wait != float("inf"):
                    self.queue.add(policy, wait)

    async def _reconcile(self, name: str) -> tuple[Plan, bool]:
        """Go through one round; return the plan as acted upon, and whether something went wrong."""
        policy = self._cluster.policies[name]
        windows = [policy.window] if isinstance(policy, Policy) and policy.enabled else []
        world = await self._survey.world(windows)
        document = self._cluster.document(name)
        if document is None or name not in {**world.policies, **world.invalid_policies}:
            raise KeyError(name)
        now, began = self._clock.now(), self._clock.monotonic()
        decided = await think(world, lambda: plan(world, name, now))
        self._metrics.plan_seconds.observe(self._clock.monotonic() - began)
        acted = await self._act(world, decided, now)
        done = _as_acted(decided, acted)
        self.last[name] = done
        self._metrics.show(done)
        trouble = acted.unreachable or next(iter(acted.refused.values()), None)
        await self._write_status(document, world, decided, trouble)
        self._log.info(
            "reconciled",
            policy=name,
            generation=decided.generation,
            watched=decided.watched,
            hot=decided.hot,
            warm=decided.warm,
            cold=decided.cold,
            started=sorted(acted.started),
            held=f"{decided.held.reason}: {decided.held.detail}" if decided.held is not None else None,
        )
        return done, trouble is not None or _heat_failed(world, decided)

    async def _act(self, world: World, decided: Plan, now: datetime) -> Acted:
        """Ask for each move of the plan."""
        acted = Acted()
        policy = world.policies.get(decided.policy)
        if policy is None:
            return acted
        not_after = now + timedelta(seconds=self._timing.not_after)
        for decision in decided.starts:
            if not self._lease.held:
                self._log.warning("lease lost, the rest of the plan is another's", policy=policy.name)
                break
            await self._start(world, policy, decision, not_after, acted)
        return acted

    async def _start(self, world: World, policy: Policy, decision: Decision, not_after: datetime, acted: Acted) -> None:
        volume = world.volumes[decision.volume]
        past = [record for record in world.migrations if record.pv_name == volume.name]
        identity = request_id(policy.uid, volume.uid, past)
        log = self._log.bind(policy=policy.name, volume=volume.name, reason=decision.reason.value)
        try:
            answer = await self._migrator.start(decision, policy, request_id=identity, not_after=not_after)
        except MigratorUnreachableError as error:
            acted.unreachable = acted.refused[volume.name] = Held(Reason.MIGRATOR_UNREACHABLE, str(error))
            log.warning("move not started", error=str(error))
            return
        regarding = Regarding("PersistentVolume", "v1", volume.name, volume.uid)
        if isinstance(answer, Held):
            acted.refused[volume.name] = answer
            self._metrics.refused.labels(answer.reason.value).inc()
            log.warning("move refused", refusal=answer.reason.value, detail=answer.detail)
            return
        acted.started[volume.name] = answer
        self._cluster.started(answer)
        self._metrics.started.inc()
        log.info("move started", migration=answer.name, detail=decision.detail)
        note = f"policy {policy.name}, migration {answer.name}: {decision.detail}"
        self._events.emit(regarding, type="Normal", reason=decision.reason.value, action="StartMigration", note=note)

    async def _write_status(self, document: PolicyDocument, world: World, decided: Plan, trouble: Held | None) -> None:
        if not self._lease.held:
            return
        policy = world.policies.get(decided.policy)
        backend = world.placements.backend if world.placements is not None else None
        before = document.last_status()
        after = status_after(
            decided,
            uid=document.metadata.uid,
            dry_run=(policy is not None and policy.dry_run) or (backend is not None and backend.dry_run),
            trouble=trouble,
            records=self._cluster.records(),
            before=before,
        )
        try:
            await self._api.patch(STORAGE_POLICIES, decided.policy, status_body(after), subresource="status")
        except NotFoundError as error:
            raise KeyError(decided.policy) from error
        self._tell(document, before, after)

    def _tell(self, document: PolicyDocument, before: PolicyStatus, after: PolicyStatus) -> None:
        meta = document.metadata
        regarding = Regarding(STORAGE_POLICIES.kind, STORAGE_POLICIES.api_version, meta.name, meta.uid)
        for condition in changed_conditions(before, after):
            self._events.emit(
                regarding,
                type="Normal" if condition.status == "True" else "Warning",
                reason=condition.reason,
                action="Reconcile",
                note=f"{condition.type} is {condition.status}: {condition.message}",
            )


def _occasion(document: PolicyDocument) -> tuple[str, int, str | None]:
    """What of a policy is an occasion to look at it; its status, which a reconcile writes, is not."""
    meta = document.metadata
    return meta.uid, meta.generation, meta.annotation(RECONCILE_AT)


def _as_acted(decided: Plan, acted: Acted) -> Plan:
    """Return the plan with what the migrator said of its moves."""
    if not acted.refused:
        return decided
    return replace(
        decided,
        decisions=tuple(
            decision
            if (held := acted.refused.get(decision.volume)) is None
            else structs.replace(
                decision,
                outcome=Outcome.STAY,
                reason=held.reason,
                detail=held.detail,
                direction=None,
                target=None,
                moves=(),
            )
            for decision in decided.decisions
        ),
    )


def _heat_failed(world: World, decided: Plan) -> bool:
    """Tell whether heat was not fresh, so that it is worth asking again soon."""
    policy = world.policies.get(decided.policy)
    snapshot = world.heat.get(policy.window) if policy is not None else None
    return snapshot is not None and snapshot.absent.quality in {HeatQuality.STALE, HeatQuality.UNAVAILABLE}
