"""
The ten promises, held against the world after every single thing that happens in it.

The witness sees every change as it takes effect and knows who made it. It looks at what is, and at who did what when;
of what the migrator believes it takes only the journal's times and claims, to hold them against the rest. A violation
is told once for what it concerns, with the moment.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from common.reasons import Reason
from common.resources.meta import LAST_MIGRATION, PARKED
from common.resources.migration import MigrationState
from sandbox.world.history import Change
from tests.simulation.courses import Course, Down
from tests.simulation.ends import Ends
from tests.simulation.facts import Read, Somebody, Things, VolumeFact
from tests.simulation.kube import Issue
from tests.simulation.process import Process
from tests.simulation.removals import Removals

OURS: Final = "couchestor-"
LOOKED_BEFORE: Final = 15.0
"""A write may have been decided by a look so many seconds before, where answers take long."""


class Witness(Ends, Removals):
    """Looks at everything."""

    # --- reads ---------------------------------------------------------------------------------------------------

    def has_read(self, process: Process, volume: str, read: Read) -> None:
        """A process was told how a volume is."""
        self.reads[process, volume].append(read)

    # --- volumes -------------------------------------------------------------------------------------------------

    def appeared(self, name: str, fact: VolumeFact) -> None:
        """A volume is there."""
        self.wanted[name] = fact

    def vanished(self, name: str) -> None:
        """A volume is gone."""
        self.wanted.pop(name, None)
        self.downs.pop(name, None)

    def spec_changed(self, name: str, before: VolumeFact, after: VolumeFact) -> None:
        """The count, the topology or the fence of a volume was written; what follows of it comes later."""
        actor = self.acting
        if isinstance(actor, Issue):
            self._we_wrote(actor, name, before, after)
        elif actor is Somebody.USER:
            self._somebody_wrote(name, before, after)

    def _somebody_wrote(self, name: str, before: VolumeFact, after: VolumeFact) -> None:
        wanted = self.wanted.get(name, before)
        self.wanted[name] = VolumeFact(
            after.count if after.count != before.count else wanted.count,
            after.topology if after.topology != before.topology else wanted.topology,
        )
        course = self.at_work.get(name)
        if course is not None:
            course.touched |= {what for what in ("count", "topology") if getattr(after, what) != getattr(before, what)}
            if course.before is not None and after.count == course.before.count + 1 != before.count:
                # The very count that the migration is about to ask for: nobody can tell whose it is.
                course.alike = True
                self.wanted[name] = replace(self.wanted[name], count=wanted.count)
        if course is not None and course.wrote:
            if after.count != before.count and not self._undone(name, course, after):
                course.foreign.add("count")
            if after.topology != before.topology:
                course.foreign.add("topology")
        if after.count < before.count:
            self.downs.pop(name, None)
        elif after.topology != before.topology and name in self.downs:
            self.downs[name].overtaken = True

    def _undone(self, name: str, course: Course, after: VolumeFact) -> bool:
        """
        Tell whether a count is now the one before a write of ours that was not answered.

        Whoever sent it cannot tell that from its never having taken effect, and sends it again.
        """
        last = self.counted.get(name)
        undone = last is not None and not last[0].heard and after.count == last[1]
        if undone and course.before is not None:
            self.wanted[name] = replace(self.wanted[name], count=course.before.count)
        return undone

    def _we_wrote(self, issue: Issue, name: str, before: VolumeFact, after: VolumeFact) -> None:
        self.tally.writes += 1
        course, wanted = self.at_work.get(name), self.wanted.get(name)
        if not issue.leads:
            self.violated(8, f"{issue} took effect, sent at {issue.at:.3f} s without the lease")
        if course is None:
            torn = self.lost.get(name)
            if torn is None or issue.at > torn[1] + LOOKED_BEFORE:
                self.violated(6, f"{issue} took effect and no migration of {name} is at work")
            return
        if course.dry_run or self.rules.dry_run:
            self.violated(7, f"{issue} took effect in a dry run ({course.name})")
        self.wrote.setdefault(name, course)
        if after.count == before.count and after.topology == before.topology:
            return
        course.wrote = True
        self.wrote[name] = course
        for what, old, new in (
            ("count", before.count, after.count),
            ("topology", before.topology, after.topology),
        ):
            if old != new and what in course.foreign:
                self.violated(9, f"{course.name}: {what} of {name} was {old}, set by somebody, and became {new}")
        if wanted is not None and after.count < wanted.count and not course.alike:
            self.violated(2, f"{course.name}: count of {name} written {after.count}, it was {wanted.count} before")
        if after.count != before.count:
            self.counted[name] = issue, before.count
        if after.count < before.count:
            if before.count - after.count > 1:
                self.violated(3, f"{course.name}: count of {name} lowered from {before.count} to {after.count} at once")
            self.downs[name] = Down(issue, course, before)

    # --- cordons and labels --------------------------------------------------------------------------------------

    def things_changed(self, before: Things, after: Things) -> None:
        """Cordons and labels of nodes and pools are not what they were."""
        actor, one, two = self.acting, before.listed(), after.listed()
        changed = {key for key in one.keys() | two.keys() if one.get(key) != two.get(key)}
        if actor is Somebody.USER:
            wanted = self.things if self.things is not None else one
            kept = {key: value for key, value in wanted.items() if key not in changed}
            self.things = kept | {key: two[key] for key in changed if key in two}
            return
        if self.things is None:
            self.things = one
        if not isinstance(actor, Issue):
            # Mayastor cordons nothing of itself: a person's change was seen together with something else.
            for each in (each for each in changed if each[0] == "cordon" and not each[2].startswith(OURS)):
                self.things = {key: value for key, value in self.things.items() if key != each}
                self.things |= {each: two[each]} if each in two else {}
            return
        self.tally.writes += 1
        for each in sorted(changed):
            kind, where, key = each
            if kind == "cordon" and not key.startswith(OURS):
                self.violated(9, f"{actor} changed the cordon {key} of {where}, which is somebody's")
            # Whoever pulled a lever may let it go, also without the lease: only then is it not left.
            lets_go = two.get(each) == self.things.get(each)
            if not actor.leads and not (lets_go and self.pulled.get(each) is actor.process):
                self.violated(8, f"{actor} took effect, sent at {actor.at:.3f} s without the lease")
            self.pulled[each] = actor.process

    # --- PersistentVolumes ---------------------------------------------------------------------------------------

    def pv_changed(self, change: Change) -> None:
        """A PersistentVolume was written."""
        actor, name = self.acting, change.after.name
        if not isinstance(actor, Issue):
            return
        self.tally.writes += 1
        if not actor.leads:
            self.violated(8, f"{actor} took effect, sent at {actor.at:.3f} s without the lease")
        course = self.at_work.get(name)
        annotations = change.after.body["metadata"].get("annotations") or {}
        former = change.before.body["metadata"].get("annotations") or {} if change.before else {}
        if course is None:
            if PARKED in annotations:
                self.parked.add(name)
            if name not in self.lost:
                self.violated(6, f"{actor} took effect and no migration of {name} is at work")
            return
        course.told |= annotations.get(LAST_MIGRATION) != former.get(LAST_MIGRATION)
        course.parked |= PARKED in annotations

    # --- records -------------------------------------------------------------------------------------------------

    def record_changed(self, change: Change) -> None:
        """A VolumeMigration was made, written or taken away."""
        body, name = change.after.body, change.after.name
        if change.type == "DELETED":
            self._record_gone(name)
            return
        spec, status = body["spec"], body.get("status") or {}
        course = self.courses.get(name)
        if course is None:
            moves = tuple((move["source"]["pool"], move["targetPool"]) for move in spec["moves"])
            policy = (spec.get("policyRef") or {}).get("name", "")
            course = self.courses[name] = Course(name, spec["pvName"], moves, policy, bool(spec.get("dryRun")))
            course.state = "Pending"
            self.on_planned(course)
        self._note_intent(course, status)
        state, old = status.get("state") or "Pending", course.state
        course.reason, course.message = status.get("reason") or "", status.get("message") or ""
        if (status.get("settings") or {}).get("dryRun"):
            course.dry_run = True
        if state != old:
            course.state = state
            self._moved_on(course, old)

    def _note_intent(self, course: Course, status: Mapping[str, Any]) -> None:
        steps = status.get("steps") or ()
        if not steps:
            return
        last = steps[-1]
        if last["kind"] == "Intent" and course.last_step != last:
            course.intent_at = self.now()
            course.intent = last.get("write") or {}
        course.last_step = last
        said = (last["kind"], course.intent.get("type"), course.intent.get("purpose"), last.get("outcome", ""))
        heading = (status.get("course") or {}).get("heading", "")
        self.tally.transitions.add("|".join((self.backend, status.get("state", ""), heading, *map(str, said))))

    def _moved_on(self, course: Course, old: str) -> None:
        now, tally = self.now(), self.tally
        tally.transitions.add(f"{self.backend}|{old}>{course.state}|{course.reason}")
        self.note(f"{course.name[:13]} {course.volume[:12]} {old} > {course.state} {course.reason} {course.message}")
        if course.active and old == "Pending":
            self._admitted(course)
        if course.active:
            other = self.at_work.get(course.volume)
            if other is not None and other is not course:
                self.violated(4, f"{course.volume}: {other.name} and {course.name} are active at once")
            self.at_work[course.volume] = course
        if course.state == "ScalingUp" and not course.scaled_up:
            course.scaled_up = True
            tally.scaled_up += 1
        if MigrationState(course.state).terminal:
            course.ended = now
            if self.at_work.get(course.volume) is course:
                del self.at_work[course.volume]
            self._ended(course)
        else:
            self.on_state(course)

    def _admitted(self, course: Course) -> None:
        course.before = self.volume_of(course.volume)
        course.began = self.now()
        if course.before is not None and self.lost.pop(course.volume, None) is not None:
            # What a record that was torn away left is how the volume is now: nobody can put it back.
            self.wanted[course.volume] = replace(course.before, replicas=())
        actor = self.acting
        if isinstance(actor, Issue) and not actor.leads:
            self.violated(8, f"{course.name} was admitted by {actor.process.name}, which does not lead")
        for what, count, cap in self._caps(course):
            if count > cap:
                self.violated(4, f"{course.name} admitted: {count} active of {what}, at most {cap} are allowed")

    def _caps(self, course: Course) -> Iterator[tuple[str, int, int]]:
        active = [other for other in self.courses.values() if other.active]
        yield "all", len(active), self.rules.total
        if course.policy:
            cap = self.policy_cap(course.policy)
            if cap is not None:
                yield f"policy {course.policy}", sum(other.policy == course.policy for other in active), cap
        pools = Counter(pool for other in active for pool in other.pools)
        for pool in course.pools:
            yield f"pool {pool}", pools[pool], self.rules.per_pool
        nodes = Counter(node for other in active for node in {self.node_of(pool) for pool in other.pools})
        for node in {self.node_of(pool) for pool in course.pools} - {None}:
            yield f"node {node}", nodes[node], self.rules.per_node

    def _record_gone(self, name: str) -> None:
        course = self.courses.pop(name, None)
        if course is None or not course.active:
            return
        if self.at_work.get(course.volume) is course:
            del self.at_work[course.volume]
        self.lost[course.volume] = (name, self.now())
        course.state, course.reason = "Gone", Reason.RECORD_LOST
