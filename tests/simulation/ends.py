"""
Promises of an end: what a migration may leave, and what it has to say of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from common.reasons import Reason
from common.resources.migration import MigrationState
from tests.simulation.courses import LEAVES_REPLICAS, Basis, Course
from tests.simulation.facts import Things, VolumeFact


class Ends(Basis):
    """Judges ends."""

    def _ended(self, course: Course) -> None:
        """A migration has come to its end."""
        fact, there = self.volume_of(course.volume), course.volume in self.wanted
        self._count(course)
        if course.completed and not course.told and there:
            self.violated(10, f"{course.name} completed and {course.volume} was not told")
        if fact is None:
            return
        if course.alike and there:
            self.wanted[course.volume] = replace(self.wanted[course.volume], count=fact.count)
        if course.state == "Failed" and not course.parked and there:
            self.violated(6, f"{course.name} failed ({course.reason}) and {course.volume} is not parked")
        self._check_claim(course, fact)
        if course.wrote and course.volume not in self.at_work:
            self.check_left(course, fact)
        if not course.foreign:
            self._check_arrival(course, fact)
            self._check_return(course, fact)

    def _count(self, course: Course) -> None:
        key = f"{course.state}({course.reason})"
        self.tally.reasons[key] = self.tally.reasons.get(key, 0) + 1
        self.tally.completed += course.completed
        self.tally.rolled_back += course.state == "Aborted" and course.wrote

    def _check_claim(self, course: Course, fact: VolumeFact | None) -> None:
        """Whoever says that somebody else did something has to be right, where it can be known."""
        if self._strayed(course, fact):
            return
        for reason, what in ((Reason.REPLICA_COUNT_CHANGED, "count"), (Reason.TOPOLOGY_CHANGED, "topology")):
            if course.reason == reason and what not in course.touched and not course.alike:
                self.violated(6, f"{course.name} says that somebody changed the {what} of {course.volume}: nobody did")

    def _strayed(self, course: Course, fact: VolumeFact | None) -> bool:
        """
        Tell whether a replica that came by levers is where nobody steered it.

        A call that took effect late puts it there, or self-healing while nobody led; so might a person.
        """
        if self.backend != "rest" or fact is None or course.before is None:
            return False
        came = fact.pools - course.before.pools
        return bool(came) and not came & {target for _, target in course.moves}

    def _check_return(self, course: Course, fact: VolumeFact) -> None:
        """After a rollback the replicas are those that there were."""
        if course.state != "Aborted" or course.reason == Reason.PARTLY_MOVED or not course.wrote or not course.before:
            return
        if fact.uuids != course.before.uuids:
            self.violated(
                3,
                f"{course.name} was rolled back ({course.reason}) and {course.volume} has replicas on "
                f"{sorted(fact.pools)}, it had them on {sorted(course.before.pools)}",
            )

    def _check_arrival(self, course: Course, fact: VolumeFact) -> None:
        """After a move the replicas are where they should be."""
        if course.reason != Reason.MOVED:
            return
        sources, targets = ({move[index] for move in course.moves} for index in (0, 1))
        if not targets <= fact.pools or (sources - targets) & fact.pools:
            self.violated(
                6, f"{course.name} completed to {sorted(targets)} and {course.volume} is on {sorted(fact.pools)}"
            )

    def check_left(self, course: Course | None, fact: VolumeFact) -> bool:
        """Hold what a migration left against what was there before, or what it says is left; tell whether it leaked."""
        volume = course.volume if course is not None else ""
        wanted = self.wanted.get(volume)
        if course is None or wanted is None:
            return False
        found = len(self.tally.violations)
        named = f"{course.reason}: {course.message}"
        if fact.fence and course.state != "Gone":
            self.violated(6, f"{course.name} ended ({named}) and the fence {fact.fence} stands on {volume}")
        says = "replica" in course.message or "numReplicas" in course.message or course.state in {"Completed", "Gone"}
        named_so = course.alike or (course.reason in LEAVES_REPLICAS and says)
        if fact.count != wanted.count and not named_so:
            self.violated(
                6, f"{course.name} ended ({named}) and the count of {volume} is {fact.count}, it was {wanted.count}"
            )
        if fact.topology != wanted.topology and not (
            course.state == "Gone" or (course.state == "Failed" and "topology" in course.message)
        ):
            self.violated(
                6,
                f"{course.name} ended ({named}) and the topology of {volume} is {fact.topology}, "
                f"it was {wanted.topology}",
            )
        return len(self.tally.violations) > found

    def check_quiet(self, disturbed: Callable[[float], bool]) -> None:
        """
        Everything has come to rest: nothing may be under way, nothing may be left that nobody told of.

        `disturbed` tells whether a process died, or was cut off, about that time.
        """
        for course in self.courses.values():
            if not MigrationState(course.state).terminal:
                self.tally.stuck += 1
                self.violated(
                    6,
                    f"{course.name} of {course.volume} is stuck in {course.state} ({course.reason}: {course.message})",
                )
        for name in self.wanted:
            fact = self.volume_of(name)
            if fact is not None and self.check_left(self.wrote.get(name), fact):
                self.tally.leaked += 1
        for name, (record, at) in self.lost.items():
            # Whoever executed it knows; if it died of the same minute, nobody does any more.
            wrote = self.wrote.get(name)
            known = wrote is not None and wrote.name == record and not disturbed(at)
            if known and name in self.wanted and name not in self.parked:
                self.violated(6, f"{record} was torn away, and {name} is not parked")

    def check_things(self, things: Things) -> None:
        """Everything has come to rest: nodes and pools must be as others left them."""
        one, two = self.things if self.things is not None else things.listed(), things.listed()
        for kind, where, key in sorted(one.keys() | two.keys()):
            was, has = one.get((kind, where, key)), two.get((kind, where, key))
            told = any(c.reason == Reason.LEVERS_LEFT and where in c.message for c in self.courses.values())
            if was != has and not told:
                self.tally.leaked += 1
                self.violated(6, f"{kind} {key} of {where} is {has}, others left it {was}")
