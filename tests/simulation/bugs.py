"""
Bugs that a mutant can have: each takes one safety measure out of the product, by replacing a few of its names.

None of it is in the product; a mutant lives in a process of its own, and dies with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec
from couchestor.scorer.v1 import scorer_pb2 as pb

from common.kube.api import KubeError
from common.kube.lease import LeaseHolder
from common.reasons import Reason
from common.resources.migration import MigrationState, VolumeMigration
from migrator import annotations as objects
from migrator import executor, journal, leader, starting
from migrator.backends import crd, mayastor_volume
from migrator.backends.base import Reading
from migrator.backends.rest import acting, pulling, takeover
from migrator.backends.rest import backend as rest_backend
from migrator.core import admission, by_levers, by_topology, ending, rollback, steps
from migrator.core.model import Conclude, FenceVolume, NotYet, Outcome, PatchVolume, Purpose
from migrator.core.view import View
from planner import scorer_client
from planner.core import case, checks
from planner.core.world import HeatQuality
from tests.simulation.plan import BackendName

CRD, REST = BackendName.CRD, BackendName.REST
Undo = Callable[[], None]


def put(where: Any, name: str, value: Any) -> None:
    """Replace a name of the product. Raises AttributeError if there is none: the mutant is out of date then."""
    getattr(where, name)
    setattr(where, name, value)


@dataclass(frozen=True, slots=True)
class Mutant:
    """One bug."""

    name: str
    apply: Callable[[], None]
    backend: BackendName | None = None
    """The only one in which it can show; None: both."""


# --- reading and deciding --------------------------------------------------------------------------------------------


def acts_on_an_old_read() -> None:
    """The intent is stored and acted upon at once, on the read that came before it."""
    do = executor.Executor._do

    async def at_once(self: Any, decision: Any, seen: Any, now: Any) -> None:
        await do(self, decision, seen, now)
        pending = self._journal.history.pending
        if pending is not None and pending.write == decision.write:
            await do(self, decision, seen, now)

    put(executor.Executor, "_do", at_once)


def reads_once() -> None:
    """One read is enough before a replica goes."""
    put(View, "confirmed", lambda _self, _problem, _reason, _what: None)


def trusts_the_copy() -> None:
    """The copy that a watch keeps is taken for a fresh read."""

    async def read(self: Any, volume: str, pools: Any) -> Reading:
        seen = self.volumes.get(volume)
        names = {*pools, *(seen.pools if seen is not None else ())}
        return Reading(seen, {name: self.pools[name] for name in names if name in self.pools})

    put(crd.CrdBackend, "read", read)


def takes_the_copy_for_complete() -> None:
    """A new replica that is there counts as Synced."""
    put(View, "unfit", lambda _self, _replicas: None)


def takes_any_new_replica() -> None:
    """A new replica counts wherever it is."""
    put(View, "arrived", property(lambda self: self.new))
    put(View, "strange", property(lambda _self: ()))


def reads_together() -> None:
    """Two reads count as two however close together they are, and however old the answers."""
    put(crd.CrdBackend, "read_gap_seconds", property(lambda _self: 0.0))
    put(rest_backend.RestBackend, "read_gap_seconds", property(lambda _self: 0.0))


# --- writing ---------------------------------------------------------------------------------------------------------


def writes_without_precondition() -> None:
    """The patch of a volume does not say which version it rests on."""
    body_of = mayastor_volume.patch_body

    def blind(write: Any, seen: Any) -> Mapping[str, Any]:
        body = dict(body_of(write, seen))
        kept = {key: value for key, value in body["metadata"].items() if key != "resourceVersion"}
        return {**body, "metadata": kept}

    put(crd, "patch_body", blind)


def concludes_without_fence() -> None:
    """What became of an unanswered patch is read off the volume, while the patch may still be on its way."""

    def answer_unsure(view: View) -> Any:
        unsure = view.whole.unsure
        if unsure is None:
            return None
        done = by_topology.took_effect(unsure, view.volume.spec)
        return Conclude(unsure.number, Outcome.DONE if done else Outcome.CONFLICT, view.volume.spec, view.state, "seen")

    put(by_topology, "answer_unsure", answer_unsure)


def takes_silence_for_no() -> None:
    """No answer means that nothing happened: the write is simply made again."""
    outcome_of = mayastor_volume.outcome_of

    def impatient(error: KubeError) -> Outcome:
        outcome = outcome_of(error)
        return Outcome.BUSY if outcome is Outcome.UNKNOWN else outcome

    put(crd, "outcome_of", impatient)


def merges_the_topology() -> None:
    """A topology is laid over the one there is: what was there stays."""

    def merged(before: Any, after: Any) -> Any:
        if not isinstance(before, dict) or not isinstance(after, dict):
            return after
        return {key: merged(before.get(key), value) for key, value in after.items() if before.get(key) != value}

    put(mayastor_volume, "merge_difference", merged)
    put(crd, "difference", lambda _write, _seen, _after: None)


def overwrites_what_somebody_changed() -> None:
    """Whatever the volume's spec is, it is taken for ours."""
    put(steps, "_foreign", lambda _view: None)
    put(View, "held", property(lambda self: self.volume.spec if self.history.spec(self.original) else None))


# --- journal and lease -----------------------------------------------------------------------------------------------


def forgets_the_journal() -> None:
    """Whoever takes a migration up begins it from the beginning."""
    start = journal.Journal.__init__

    def forgetful(self: Any, api: Any, record: VolumeMigration) -> None:
        start(self, api, record)
        if record.active and record.status.steps:
            blank = msgspec.structs.replace(
                record.status,
                state=MigrationState.ANALYZING,
                steps=(),
                original_replicas=(),
                original_replica_count=None,
                original_topology=None,
                new_replicas=(),
                course=None,
                rebuild=None,
            )
            self.record = msgspec.structs.replace(record, status=blank)

    put(journal.Journal, "__init__", forgetful)


def does_not_check_the_lease() -> None:
    """Who was the leader once goes on."""
    put(executor.Executor, "_check_lease", lambda _self: None)
    put(LeaseHolder, "held", property(lambda self: self._acquired.is_set() or self._held_until is not None))

    async def never_lost(self: Any) -> None:
        await self._clock.sleep(1e9)

    put(LeaseHolder, "wait_lost", never_lost)
    put(LeaseHolder, "_lose", lambda _self: None)


def takes_the_lease_early() -> None:
    """Another's lease counts as expired at once."""
    put(LeaseHolder, "_expired", lambda _self: True)


# --- admission -------------------------------------------------------------------------------------------------------


def frees_the_slot_twice() -> None:
    """A migration's slot is free when its source is about to go, and again at its end."""
    busy = {MigrationState.ANALYZING, MigrationState.SCALING_UP, MigrationState.WAITING_SYNC}
    take = admission._Slots.take

    def leaky(self: Any, record: VolumeMigration) -> None:
        if record.status.state in busy or record.status.state is MigrationState.PENDING:
            take(self, record)

    put(admission._Slots, "take", leaky)


def lets_a_volume_move_twice() -> None:
    """Nobody looks whether the volume is on the move already."""
    end = admission._end
    put(admission, "_end", lambda record, _elder, now: end(record, None, now))
    put(starting.Starter, "_refuse_second", lambda _self, _pv_name: None)


def ignores_the_caps() -> None:
    """Whoever waits is let in."""
    put(admission, "_hold", lambda *_args, **_more: None)


# --- ends ------------------------------------------------------------------------------------------------------------


def forgets_the_annotation() -> None:
    """The PersistentVolume is not told."""
    put(ending, "_annotate", lambda _view: None)


def forgets_to_park() -> None:
    """The PersistentVolume is told, but nobody has to look."""
    annotate = objects.ClusterObjects.annotate

    async def lenient(self: Any, name: str, write: Any, seen: Any) -> Any:
        return await annotate(self, name, msgspec.structs.replace(write, parked=""), seen)

    put(objects.ClusterObjects, "annotate", lenient)


def leaves_the_topology() -> None:
    """The steering stays."""
    put(ending, "_restore", lambda _view: None)


def leaves_the_fence() -> None:
    """The fence stays."""
    put(ending, "_unfence", lambda _view: None)
    body_of = mayastor_volume.patch_body

    def fenced(write: Any, seen: Any) -> Mapping[str, Any]:
        body = dict(body_of(write, seen))
        return (
            {**body, "metadata": {key: value for key, value in body["metadata"].items() if key != "annotations"}}
            if (not isinstance(write, FenceVolume))
            else body
        )

    put(crd, "patch_body", fenced)


def scales_down_to_roll_back() -> None:
    """Rolling back is the forward scale-down, run early: nothing is steered the other way round."""

    def remove_new(view: View) -> Any:
        original = view.original
        if original is None or view.volume.published is False:
            return NotYet("not now")
        patch = PatchVolume(purpose=Purpose.REMOVE_NEW, replica_count=original.replica_count)
        return view.do(patch, detail="back")

    put(by_topology, "remove_new", remove_new)


def gives_up_at_timeout() -> None:
    """A migration that is cancelled or takes too long simply ends."""

    def back(view: View) -> Any:
        course = view.course
        return ending.finish(view, Reason(course.reason) if course else Reason.TIMED_OUT, "given up")

    put(steps, "back", back)
    put(rollback, "back", back)


def removes_in_preservation_mode() -> None:
    """The source goes all the same."""
    real = steps._forward

    def forward(view: View) -> Any:
        return real(replace(view, settings=msgspec.structs.replace(view.settings, preservation=False)))

    put(steps, "_forward", forward)


def writes_in_a_dry_run() -> None:
    """A dry run is one no more."""
    settings_for = leader.Leader._settings_for

    def eager(self: Any, record: VolumeMigration) -> Any:
        return msgspec.structs.replace(settings_for(self, record), dry_run=False)

    put(leader.Leader, "_settings_for", eager)


# --- levers ----------------------------------------------------------------------------------------------------------


def leaves_the_cordon() -> None:
    """What was pulled stays pulled, and is said to have been let go."""

    async def let_all_go(_self: Any, _pulled: Any, _until: float) -> frozenset[Any]:
        return frozenset()

    put(pulling.Puller, "let_all_go", let_all_go)


def pulls_no_lever() -> None:
    """The call is made without its levers."""

    async def pull(_self: Any, _lever: Any, _pulled: Any, _seconds: float) -> None:
        return None

    put(pulling.Puller, "pull", pull)
    put(acting, "missing", lambda _cluster, _levers: ())


def sweeps_nothing() -> None:
    """A new leader leaves alone what one before may have left."""
    put(takeover.Clearing, "_left", lambda _self, _things: ())
    put(ending, "release", lambda _view, patiently=True: None)
    put(by_levers, "release", lambda _view, patiently=True: None)


def concludes_without_waiting() -> None:
    """What became of an unanswered call is settled at once."""

    def answer_unsure(view: View) -> Any:
        unsure = view.whole.unsure
        if unsure is None:
            return None
        done = by_levers._has_count(view, unsure)
        return Conclude(unsure.number, Outcome.DONE if done else Outcome.CONFLICT, view.volume.spec, view.state, "seen")

    put(by_levers, "answer_unsure", answer_unsure)


# --- the planner -----------------------------------------------------------------------------------------------------


def takes_stale_heat_for_fresh() -> None:
    """Old heat is as good as any."""
    put(scorer_client, "_WORSE", ())
    known: dict[Any, HeatQuality] = dict(scorer_client._QUALITY)
    put(scorer_client, "_QUALITY", {**known, pb.HEAT_QUALITY_STALE: HeatQuality.OK})


def takes_silence_for_cold() -> None:
    """A volume without samples is cold, though something has it in use."""
    put(case, "counts", lambda _policy, heat, attached: heat.quality in {HeatQuality.OK, HeatQuality.NO_DATA})


def forgets_the_cooldown() -> None:
    """When a volume was moved last does not matter."""
    put(checks, "last_completed", lambda _volume, _records: None)


MUTANTS: Final = (
    Mutant("acts on an old read", acts_on_an_old_read),
    Mutant("reads once", reads_once),
    Mutant("trusts the copy", trusts_the_copy, CRD),
    Mutant("takes the copy for complete", takes_the_copy_for_complete),
    Mutant("takes any new replica", takes_any_new_replica),
    Mutant("reads together", reads_together),
    Mutant("writes without precondition", writes_without_precondition, CRD),
    Mutant("concludes without fence", concludes_without_fence, CRD),
    Mutant("takes silence for no", takes_silence_for_no, CRD),
    Mutant("merges the topology", merges_the_topology, CRD),
    Mutant("overwrites what somebody changed", overwrites_what_somebody_changed, CRD),
    Mutant("forgets the journal", forgets_the_journal),
    Mutant("does not check the lease", does_not_check_the_lease),
    Mutant("takes the lease early", takes_the_lease_early),
    Mutant("frees the slot twice", frees_the_slot_twice),
    Mutant("lets a volume move twice", lets_a_volume_move_twice),
    Mutant("ignores the caps", ignores_the_caps),
    Mutant("forgets the annotation", forgets_the_annotation),
    Mutant("forgets to park", forgets_to_park),
    Mutant("leaves the topology", leaves_the_topology, CRD),
    Mutant("leaves the fence", leaves_the_fence, CRD),
    Mutant("scales down to roll back", scales_down_to_roll_back, CRD),
    Mutant("gives up at the timeout", gives_up_at_timeout),
    Mutant("removes in preservation mode", removes_in_preservation_mode),
    Mutant("writes in a dry run", writes_in_a_dry_run),
    Mutant("leaves the cordon", leaves_the_cordon, REST),
    Mutant("pulls no lever", pulls_no_lever, REST),
    Mutant("sweeps nothing", sweeps_nothing, REST),
    Mutant("concludes without waiting", concludes_without_waiting, REST),
    Mutant("takes stale heat for fresh", takes_stale_heat_for_fresh),
    Mutant("takes silence for cold", takes_silence_for_cold),
    Mutant("forgets the cooldown", forgets_the_cooldown),
)
"""By what each is called."""
