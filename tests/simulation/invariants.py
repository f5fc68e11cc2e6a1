"""
The ten promises, held against the world after every single thing that happens in it.

The witness sees every change as it takes effect and knows who made it. It looks at what is, and at who did what when;
of what the migrator believes it takes only the journal's times and claims, to hold them against the rest. A violation
is told once for what it concerns, with the moment.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from common.reasons import Reason
from common.resources.meta import LAST_MIGRATION, PARKED
from common.resources.migration import MigrationState
from sandbox.world.history import Change
from tests.simulation.facts import Read, Rules, Somebody, Tally, Things, VolumeFact
from tests.simulation.kube import Issue
from tests.simulation.process import Process

ACTIVE: Final = frozenset({"Analyzing", "ScalingUp", "WaitingSync", "ScalingDown"})
LEAVES_REPLICAS: Final = frozenset(
    {
        Reason.REPLICA_LEFT,
        Reason.ORIGINAL_LOST,
        Reason.REPLICA_COUNT_CHANGED,
        Reason.WRONG_REPLICA_REMOVED,
        Reason.TOPOLOGY_CHANGED,
        Reason.TOPOLOGY_LEFT,
        Reason.LEVERS_LEFT,
        Reason.JOURNAL_FULL,
        Reason.RECORD_LOST,
        Reason.SOURCE_PRESERVED,
    }
)
OURS: Final = "couchestor-"
LOOKED_BEFORE: Final = 15.0
"""A write may have been decided by a look so many seconds before, where answers take long."""
Actor = Issue | Somebody


@dataclass(slots=True)
class Course:
    """One migration, as the world has seen it."""

    name: str
    volume: str
    moves: tuple[tuple[str, str], ...]
    policy: str
    dry_run: bool
    state: str = ""
    reason: str = ""
    message: str = ""
    before: VolumeFact | None = None
    """The volume when it was admitted."""
    intent_at: float = 0.0
    """When the last intent was stored."""
    intent: Mapping[str, Any] = field(default_factory=dict)
    last_step: Mapping[str, Any] = field(default_factory=dict)
    wrote: bool = False
    """Whether a write of it changed the volume's spec."""
    told: bool = False
    """Whether the PersistentVolume was given the annotation of a completed move for it."""
    parked: bool = False
    foreign: set[str] = field(default_factory=set)
    """Fields that somebody changed after it had written."""
    touched: set[str] = field(default_factory=set)
    """Fields that somebody changed since it was admitted."""
    alike: bool = False
    """Whether somebody set the very count that it would have set."""
    began: float = 0.0
    ended: float = 0.0

    @property
    def active(self) -> bool:
        return self.state in ACTIVE

    @property
    def pools(self) -> frozenset[str]:
        return frozenset(pool for move in self.moves for pool in move)


@dataclass(slots=True)
class Down:
    """A count that was lowered, until the replica is gone."""

    issue: Issue
    course: Course | None
    fact: VolumeFact
    """The volume just before."""
    gone: set[str] = field(default_factory=set)


class Witness:
    """Looks at everything."""

    def __init__(
        self,
        backend: str,
        rules: Rules,
        tally: Tally,
        *,
        now: Callable[[], float],
        volume: Callable[[str], VolumeFact | None],
        node_of: Callable[[str], str | None],
        policy_cap: Callable[[str], int | None],
        note: Callable[[str], None],
    ) -> None:
        self._backend = backend
        self._rules = rules
        self.tally = tally
        self._now = now
        self._volume = volume
        self._node_of = node_of
        self._policy_cap = policy_cap
        self._note = note
        self.acting: Actor = Somebody.MAYASTOR
        """Whose doing what happens now is."""
        self.courses: dict[str, Course] = {}
        self.wanted: dict[str, VolumeFact] = {}
        """Each volume's count and topology as whoever made it, or changed it since, wants them."""
        self._at_work: dict[str, Course] = {}
        self._wrote: dict[str, Course] = {}
        """The migration that wrote last, by volume."""
        self._downs: dict[str, Down] = {}
        self._reads: defaultdict[tuple[Process, str], deque[Read]] = defaultdict(lambda: deque(maxlen=8))
        self.things: dict[tuple[str, str, str], str] | None = None
        """Cordons and labels as everybody but us wants them; None until somebody changed any."""
        self._pulled: dict[tuple[str, str, str], Process] = {}
        """Who wrote each cordon and label last."""
        self._told: set[str] = set()
        self._parked: set[str] = set()
        self.on_planned: Callable[[Course], None] = lambda _course: None
        """Is told of every new migration."""
        self.on_state: Callable[[Course], None] = lambda _course: None
        """Is told of every state that a migration enters."""
        self.lost: dict[str, tuple[str, float]] = {}
        """Records that were torn away while they were at work, and when, by volume."""

    # --- telling -------------------------------------------------------------------------------------------------

    def violated(self, promise: int, what: str) -> None:
        """Tell of a broken promise."""
        if what in self._told:
            return
        self._told.add(what)
        line = f"invariant {promise} at {self._now():.3f} s: {what}"
        self.tally.violations.append(line)
        self._note(f"VIOLATION {line}")

    def issued(self, issue: Issue) -> None:
        """A process sends a write: note what its journal says by then."""
        course = self._at_work.get(issue.call.name)
        if course is not None:
            issue.intent_at, issue.intent = course.intent_at, course.intent
            issue.reads = tuple(self._reads[issue.process, course.volume])

    # --- reads ---------------------------------------------------------------------------------------------------

    def has_read(self, process: Process, volume: str, read: Read) -> None:
        """A process was told how a volume is."""
        self._reads[process, volume].append(read)

    # --- volumes -------------------------------------------------------------------------------------------------

    def appeared(self, name: str, fact: VolumeFact) -> None:
        """A volume is there."""
        self.wanted[name] = fact

    def vanished(self, name: str) -> None:
        """A volume is gone."""
        self.wanted.pop(name, None)
        self._downs.pop(name, None)

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
        course = self._at_work.get(name)
        if course is not None:
            course.touched |= {what for what in ("count", "topology") if getattr(after, what) != getattr(before, what)}
            if course.before is not None and after.count == course.before.count + 1 != before.count:
                # The very count that the migration is about to ask for: nobody can tell whose it is.
                course.alike = True
                self.wanted[name] = replace(self.wanted[name], count=wanted.count)
        if course is not None and course.wrote:
            if after.count != before.count:
                course.foreign.add("count")
            if after.topology != before.topology:
                course.foreign.add("topology")
        if after.count < before.count:
            self._downs.pop(name, None)

    def _we_wrote(self, issue: Issue, name: str, before: VolumeFact, after: VolumeFact) -> None:
        self.tally.writes += 1
        course, wanted = self._at_work.get(name), self.wanted.get(name)
        if not issue.leads:
            self.violated(8, f"{issue} took effect, sent at {issue.at:.3f} s without the lease")
        if course is None:
            torn = self.lost.get(name)
            if torn is None or issue.at > torn[1] + LOOKED_BEFORE:
                self.violated(6, f"{issue} took effect and no migration of {name} is at work")
            return
        if course.dry_run or self._rules.dry_run:
            self.violated(7, f"{issue} took effect in a dry run ({course.name})")
        self._wrote.setdefault(name, course)
        if after.count == before.count and after.topology == before.topology:
            return
        course.wrote = True
        self._wrote[name] = course
        for what, old, new in (
            ("count", before.count, after.count),
            ("topology", before.topology, after.topology),
        ):
            if old != new and what in course.foreign:
                self.violated(9, f"{course.name}: {what} of {name} was {old}, set by somebody, and became {new}")
        if wanted is not None and after.count < wanted.count and not course.alike:
            self.violated(2, f"{course.name}: count of {name} written {after.count}, it was {wanted.count} before")
        if after.count < before.count:
            if before.count - after.count > 1:
                self.violated(3, f"{course.name}: count of {name} lowered from {before.count} to {after.count} at once")
            self._downs[name] = Down(issue, course, before)

    def dropped(self, name: str, before: VolumeFact) -> None:
        """A call of ours that was refused took a replica all the same."""
        issue = self.acting
        if not isinstance(issue, Issue):
            return
        course = self._at_work.get(name)
        if not issue.leads:
            self.violated(8, f"{issue} took a replica, sent at {issue.at:.3f} s without the lease")
        if course is not None:
            course.wrote = True
            self._wrote[name] = course
        self._downs[name] = Down(issue, course, before)

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
            return
        self.tally.writes += 1
        for each in sorted(changed):
            kind, where, key = each
            if kind == "cordon" and not key.startswith(OURS):
                self.violated(9, f"{actor} changed the cordon {key} of {where}, which is somebody's")
            # Whoever pulled a lever may let it go, also without the lease: only then is it not left.
            lets_go = two.get(each) == self.things.get(each)
            if not actor.leads and not (lets_go and self._pulled.get(each) is actor.process):
                self.violated(8, f"{actor} took effect, sent at {actor.at:.3f} s without the lease")
            self._pulled[each] = actor.process

    def check_things(self, things: Things) -> None:
        """Everything has come to rest: nodes and pools must be as others left them."""
        one, two = self.things if self.things is not None else things.listed(), things.listed()
        for kind, where, key in sorted(one.keys() | two.keys()):
            was, has = one.get((kind, where, key)), two.get((kind, where, key))
            told = any(c.reason == Reason.LEVERS_LEFT and where in c.message for c in self.courses.values())
            if was != has and not told:
                self.tally.leaked += 1
                self.violated(6, f"{kind} {key} of {where} is {has}, others left it {was}")

    def removed(self, name: str, uuid: str) -> None:
        """Mayastor dropped a replica of a volume."""
        down = self._downs.get(name)
        if down is None or uuid not in down.fact.uuids:
            return
        down.gone.add(uuid)
        self._check_removal(name, down, uuid)
        if len(down.fact.replicas) - len(down.gone) <= down.fact.count - 1:
            del self._downs[name]

    def _check_removal(self, name: str, down: Down, uuid: str) -> None:
        course, fact = down.course, down.fact
        label = course.name if course is not None else str(down.issue)
        before = course.before if course is not None and course.before is not None else fact
        left = fact.usable - down.gone
        if len(left) < min(len(before.usable), len(fact.usable)):
            self.violated(
                1,
                f"{label}: {name} had {len(fact.usable)} Synced, {len(before.usable)} before it began, now {len(left)}",
            )
        if uuid in fact.usable and course is not None:
            self._check_choice(name, course, down, before, uuid)
        since = down.issue.intent_at
        staying = fact.uuids - down.gone - self._to_go(course, down, before)
        shown = [
            read for read in down.issue.reads if read.sent >= since and all(read.synced.get(stays) for stays in staying)
        ]
        far = any(two.sent - one.sent >= self._rules.read_gap - 1e-6 for one in shown for two in shown)
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
        if course is None or self._backend != "crd":
            return frozenset()
        fact, sources = down.fact, {source for source, _ in course.moves}
        if down.issue.intent.get("purpose") == "ScaleDown":
            return frozenset(uuid for uuid in fact.uuids & before.uuids if fact.pool_of(uuid) in sources)
        return fact.uuids - before.uuids if down.issue.intent.get("purpose") == "RemoveNew" else frozenset()

    def _check_choice(self, name: str, course: Course, down: Down, before: VolumeFact, uuid: str) -> None:
        """A healthy replica went: was it one that should?"""
        fact = down.fact
        original = uuid in before.uuids
        if original and self._rules.preservation:
            self.violated(7, f"{course.name}: preservation mode, and {name} lost {fact.pool_of(uuid)}")
        if self._now() - down.issue.at > self._rules.decided_within:
            return  # all were complete, and which of them Mayastor drops without levers nobody can tell
        purpose = down.issue.intent.get("purpose")
        sources = {source for source, _ in course.moves}
        if purpose == "ScaleDown" and not (original and fact.pool_of(uuid) in sources):
            self.violated(3, f"{course.name}: {name} lost {fact.pool_of(uuid)}, which is no source")
        if purpose == "RemoveNew" and original:
            self.violated(3, f"{course.name}: rolling back, {name} lost {fact.pool_of(uuid)}, which it had before")

    # --- PersistentVolumes ---------------------------------------------------------------------------------------

    def pv_changed(self, change: Change) -> None:
        """A PersistentVolume was written."""
        actor, name = self.acting, change.after.name
        if not isinstance(actor, Issue):
            return
        self.tally.writes += 1
        if not actor.leads:
            self.violated(8, f"{actor} took effect, sent at {actor.at:.3f} s without the lease")
        course = self._at_work.get(name)
        annotations = change.after.body["metadata"].get("annotations") or {}
        former = change.before.body["metadata"].get("annotations") or {} if change.before else {}
        if course is None:
            if PARKED in annotations:
                self._parked.add(name)
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
            self._moved_on(course, old, status)

    def _note_intent(self, course: Course, status: Mapping[str, Any]) -> None:
        steps = status.get("steps") or ()
        if not steps:
            return
        last = steps[-1]
        if last["kind"] == "Intent" and course.last_step != last:
            course.intent_at = self._now()
            course.intent = last.get("write") or {}
        course.last_step = last
        said = (last["kind"], course.intent.get("type"), course.intent.get("purpose"), last.get("outcome", ""))
        heading = (status.get("course") or {}).get("heading", "")
        self.tally.transitions.add("|".join((self._backend, status.get("state", ""), heading, *map(str, said))))

    def _moved_on(self, course: Course, old: str, status: Mapping[str, Any]) -> None:
        now, tally = self._now(), self.tally
        tally.transitions.add(f"{self._backend}|{old}>{course.state}|{course.reason}")
        self._note(f"{course.name[:13]} {course.volume[:12]} {old} > {course.state} {course.reason} {course.message}")
        if course.active and old == "Pending":
            self._admitted(course)
        if course.active:
            other = self._at_work.get(course.volume)
            if other is not None and other is not course:
                self.violated(4, f"{course.volume}: {other.name} and {course.name} are active at once")
            self._at_work[course.volume] = course
        if course.state == "ScalingUp":
            tally.scaled_up += 1
        if MigrationState(course.state).terminal:
            course.ended = now
            if self._at_work.get(course.volume) is course:
                del self._at_work[course.volume]
            self._ended(course, old, status)
        else:
            self.on_state(course)

    def _admitted(self, course: Course) -> None:
        course.before = self._volume(course.volume)
        course.began = self._now()
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
        yield "all", len(active), self._rules.total
        if course.policy:
            cap = self._policy_cap(course.policy)
            if cap is not None:
                yield f"policy {course.policy}", sum(other.policy == course.policy for other in active), cap
        pools = Counter(pool for other in active for pool in other.pools)
        for pool in course.pools:
            yield f"pool {pool}", pools[pool], self._rules.per_pool
        nodes = Counter(node for other in active for node in {self._node_of(pool) for pool in other.pools})
        for node in {self._node_of(pool) for pool in course.pools} - {None}:
            yield f"node {node}", nodes[node], self._rules.per_node

    def _record_gone(self, name: str) -> None:
        course = self.courses.pop(name, None)
        if course is None or not course.active:
            return
        if self._at_work.get(course.volume) is course:
            del self._at_work[course.volume]
        self.lost[course.volume] = (name, self._now())
        course.state, course.reason = "Gone", Reason.RECORD_LOST

    # --- ends ----------------------------------------------------------------------------------------------------

    def _ended(self, course: Course, old: str, status: Mapping[str, Any]) -> None:
        tally, fact = self.tally, self._volume(course.volume)
        key = f"{course.state}({course.reason})"
        tally.reasons[key] = tally.reasons.get(key, 0) + 1
        completed = course.state == "Completed" and course.reason != Reason.DRY_RUN
        if completed:
            tally.completed += 1
        if course.state == "Aborted" and course.wrote:
            tally.rolled_back += 1
        pv_gone = course.volume not in self.wanted
        if completed and not course.told and not pv_gone:
            self.violated(10, f"{course.name} completed and {course.volume} was not told")
        if fact is None:
            return
        if course.alike and not pv_gone:
            self.wanted[course.volume] = replace(self.wanted[course.volume], count=fact.count)
        for reason, what in ((Reason.REPLICA_COUNT_CHANGED, "count"), (Reason.TOPOLOGY_CHANGED, "topology")):
            if course.reason == reason and what not in course.touched and not course.alike:
                self.violated(6, f"{course.name} says that somebody changed the {what} of {course.volume}: nobody did")
        if course.state == "Failed" and not course.parked and not pv_gone:
            self.violated(6, f"{course.name} failed ({course.reason}) and {course.volume} is not parked")
        if course.wrote and course.volume not in self._at_work:
            self.check_left(course, fact)
        if completed and course.reason == Reason.MOVED and not course.foreign:
            self._check_arrival(course, fact)
        back = course.state == "Aborted" and course.reason != Reason.PARTLY_MOVED and not course.foreign
        if back and course.before is not None and course.wrote:
            before = course.before.uuids
            if fact.uuids != before:
                self.violated(
                    3,
                    f"{course.name} was rolled back ({course.reason}) and {course.volume} has replicas on "
                    f"{sorted(fact.pools)}, it had them on {sorted(course.before.pools)}",
                )

    def _check_arrival(self, course: Course, fact: VolumeFact) -> None:
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
            fact = self._volume(name)
            if fact is not None and self.check_left(self._wrote.get(name), fact):
                self.tally.leaked += 1
        for name, (record, at) in self.lost.items():
            # Whoever executed it knows; if it died of the same minute, nobody does any more.
            wrote = self._wrote.get(name)
            known = wrote is not None and wrote.name == record and not disturbed(at)
            if known and name in self.wanted and name not in self._parked:
                self.violated(6, f"{record} was torn away, and {name} is not parked")
