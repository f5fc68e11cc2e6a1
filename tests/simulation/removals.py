"""
Promises of a removal: which replica may go, and upon what.
"""

from __future__ import annotations

from tests.simulation.courses import Basis, Course, Down
from tests.simulation.facts import VolumeFact
from tests.simulation.kube import Issue


class Removals(Basis):
    """Judges removals."""

    def dropped(self, name: str, before: VolumeFact) -> None:
        """A call of ours that was refused took a replica all the same."""
        issue = self.acting
        if not isinstance(issue, Issue):
            return
        course = self.at_work.get(name)
        if not issue.leads:
            self.violated(8, f"{issue} took a replica, sent at {issue.at:.3f} s without the lease")
        if course is not None:
            course.wrote = True
            self.wrote[name] = course
        self.downs[name] = Down(issue, course, before)

    def went_away(self, name: str, uuid: str) -> None:
        """A replica of a volume cannot be reached any more."""
        if name in self.downs:
            self.downs[name].away.add(uuid)

    def removed(self, name: str, uuid: str) -> None:
        """Mayastor dropped a replica of a volume."""
        down = self.downs.get(name)
        if down is None or uuid not in down.fact.uuids:
            return
        down.gone.add(uuid)
        self._check_removal(name, down, uuid)
        if len(down.fact.replicas) - len(down.gone) <= down.fact.count - 1:
            del self.downs[name]

    def _check_removal(self, name: str, down: Down, uuid: str) -> None:
        course, fact = down.course, down.fact
        label = course.name if course is not None else str(down.issue)
        before = course.before if course is not None and course.before is not None else fact
        left = fact.usable - down.gone
        wanted = self.wanted.get(name, before).count  # a person may have lowered it since the migration was let in
        if len(left) < min(len(before.usable), len(fact.usable), wanted):
            self.violated(
                1,
                f"{label}: {name} had {len(fact.usable)} Synced, {len(before.usable)} before it began, now {len(left)}",
            )
        if uuid in fact.usable - down.away and course is not None:
            self._check_choice(name, course, down, before, uuid)
        since = down.issue.intent_at
        staying = fact.uuids - down.gone - self._to_go(course, down, before)
        shown = [
            read for read in down.issue.reads if read.sent >= since and all(read.synced.get(stays) for stays in staying)
        ]
        far = any(two.sent - one.sent >= self.rules.read_gap - 1e-6 for one in shown for two in shown)
        latest = down.issue.reads[-1] if down.issue.reads else None
        if not far or latest not in shown:
            self.violated(
                3,
                f"{label}: {name} lost {fact.pool_of(uuid)} although no two fresh reads since {since:.3f} s showed "
                f"{', '.join(sorted(fact.pool_of(stays) for stays in staying))} Synced",
            )

    def _to_go(self, course: Course | None, down: Down, before: VolumeFact) -> frozenset[str]:
        """Name what else is to go, and need not be Synced: other sources, or other new replicas; not where (rest) the
        moves go one after another."""
        if course is None or self.backend != "crd":
            return frozenset()
        fact, sources = down.fact, {source for source, _ in course.moves}
        if down.issue.intent.get("purpose") == "ScaleDown":
            return frozenset(uuid for uuid in fact.uuids & before.uuids if fact.pool_of(uuid) in sources)
        return fact.uuids - before.uuids if down.issue.intent.get("purpose") == "RemoveNew" else frozenset()

    def _check_choice(self, name: str, course: Course, down: Down, before: VolumeFact, uuid: str) -> None:
        """A healthy replica went: was it one that should?"""
        fact = down.fact
        original = uuid in before.uuids
        if original and self.rules.preservation:
            self.violated(7, f"{course.name}: preservation mode, and {name} lost {fact.pool_of(uuid)}")
        if self.now() - down.issue.at > self.rules.decided_within:
            return  # all were complete, and which of them Mayastor drops without levers nobody can tell
        if down.overtaken:
            return  # the same, of a topology that is not the one it was decided upon
        purpose = down.issue.intent.get("purpose")
        sources = {source for source, _ in course.moves}
        if purpose == "ScaleDown" and not (original and fact.pool_of(uuid) in sources):
            self.violated(3, f"{course.name}: {name} lost {fact.pool_of(uuid)}, which is no source")
        if purpose == "RemoveNew" and original:
            self.violated(3, f"{course.name}: rolling back, {name} lost {fact.pool_of(uuid)}, which it had before")
