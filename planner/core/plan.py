"""
The plan: for each watched volume one outcome, with one reason and its numbers.

A pure function of the world and the time. What a reconcile starts, a preview shows, an explanation unfolds is this
same function's answer, so that none of them can say anything else than what is done.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

import msgspec
from msgspec.structs import replace

from common.placement import Move, Tier
from common.reasons import Reason
from common.resources.policy import Policy
from planner.core.case import Case, Held, View, case_of, view_of, watches
from planner.core.checks import CHECKS, REFUSALS, VOLUME_REFUSALS, first_refusal, wish
from planner.core.ledger import Ledger
from planner.core.ranking import Turn, Turns, as_met
from planner.core.tiers import Place
from planner.core.world import HeatQuality, HeatScore, InvalidPolicy, Volume, World


class Outcome(StrEnum):
    """What becomes of a volume."""

    STAY = "Stay"
    MOVE = "Move"
    WOULD_MOVE = "WouldMove"
    """It would move, but the policy or the migrator is in dry run."""


class Direction(StrEnum):
    """Which way a volume moves between tiers."""

    PROMOTE = "Promote"
    DEMOTE = "Demote"


class Decision(msgspec.Struct, frozen=True, gc=False):
    """The outcome for one volume."""

    volume: str
    volume_handle: str
    policy: str
    outcome: Outcome
    reason: Reason
    detail: str
    heat: HeatScore | None = None
    current: Place = Place.UNKNOWN
    until: datetime | None = None
    size_bytes: int | None = None
    direction: Direction | None = None
    target: Tier | None = None
    moves: tuple[Move, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """What a policy wants at one moment."""

    policy: str
    generation: int
    decided_at: datetime
    decisions: tuple[Decision, ...] = ()
    """One for each watched volume, by PV name."""
    order: tuple[str, ...] = ()
    """The volumes that move or would move, in the order to start them."""
    watched: int = 0
    hot: int = 0
    """Above the high watermark, by heat that counts; `warm` between, `cold` below the low one."""
    warm: int = 0
    cold: int = 0
    held: Held | None = None
    """Why the policy as a whole does nothing; None if it works."""

    @property
    def starts(self) -> tuple[Decision, ...]:
        """The decisions to act on, in order."""
        moving = {decision.volume: decision for decision in self.decisions if decision.outcome is Outcome.MOVE}
        return tuple(moving[name] for name in self.order if name in moving)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one check said of one volume."""

    check: str
    held: Held | None
    detail: str

    @property
    def passed(self) -> bool:
        return self.held is None


@dataclass(frozen=True, slots=True)
class Explanation:
    """One policy's view of one volume: the decision, and every check run past the first refusal."""

    decision: Decision
    verdicts: tuple[Verdict, ...] = ()


def plan(world: World, policy_name: str, now: datetime) -> Plan:
    """
    Decide for every volume that a policy watches.

    Raises KeyError if the world has no policy of that name.
    """
    policy = world.policies.get(policy_name)
    if policy is None:
        broken = world.invalid_policies[policy_name]
        return Plan(policy_name, broken.generation, now, held=Held(Reason.POLICY_INVALID, broken.problem))
    return plan_for(world, policy, now)


def plan_for(world: World, policy: Policy, now: datetime) -> Plan:
    """Decide as `plan` does, for a policy that need not be part of the world."""
    if not policy.enabled:
        return Plan(policy.name, policy.generation, now, held=Held(Reason.POLICY_DISABLED, "spec.enabled is false"))
    return _decide(view_of(world, policy, now))[0]


def explain(world: World, volume: Volume, now: datetime) -> tuple[Explanation, ...]:
    """Run every check of every policy for one volume, policies oldest first."""
    everyone: list[Policy | InvalidPolicy] = [*world.policies.values(), *world.invalid_policies.values()]
    everyone.sort(key=lambda policy: (policy.created, policy.name))
    return tuple(_explain(world, policy, volume, now) for policy in everyone)


def _explain(world: World, policy: Policy | InvalidPolicy, volume: Volume, now: datetime) -> Explanation:
    if isinstance(policy, InvalidPolicy):
        return Explanation(_outright(volume, policy.name, Reason.POLICY_INVALID, policy.problem))
    if not policy.enabled:
        return Explanation(_outright(volume, policy.name, Reason.POLICY_DISABLED, "spec.enabled is false"))
    view = view_of(world, policy, now)
    decided, met = _decide(view, watch=volume.name)
    case = case_of(view, volume)
    if met is not None:
        case = as_met(case, met)
    verdicts = []
    for check in CHECKS:
        held = check.refuse(case)
        verdicts.append(Verdict(check.name, held, check.passed(case) if held is None else held.detail))
    decision = next((item for item in decided.decisions if item.volume == volume.name), None)
    not_part = Held(Reason.NOT_WATCHED, f"policy {policy.name} does not watch it")
    return Explanation(decision or _stay(case, first_refusal(case, REFUSALS) or not_part), tuple(verdicts))


def _outright(volume: Volume, policy: str, reason: Reason, detail: str) -> Decision:
    return Decision(volume.name, volume.handle, policy, Outcome.STAY, reason, detail, size_bytes=volume.size_bytes)


def _decide(view: View, watch: str = "") -> tuple[Plan, Ledger | None]:
    """Decide; and return the ledger as the watched volume met it, if its turn came."""
    policy = view.policy
    stays: list[Decision] = []
    candidates: list[Case] = []
    by_tier: dict[Tier | None, int] = {Tier.HOT: 0, Tier.COLD: 0, None: 0}
    for volume in view.world.volumes.values():
        if not watches(policy, volume):
            continue
        case = case_of(view, volume)
        if case.heat_counts:
            by_tier[case.wants] += 1
        held = first_refusal(case, VOLUME_REFUSALS)
        if held is None:
            candidates.append(case)
        else:
            stays.append(_stay(case, held))
    turns = Turns(candidates, watch)
    decisions = stays + [_after(turn) for turn in turns.taken]
    decisions.sort(key=lambda decision: decision.volume)
    return Plan(
        policy=policy.name,
        generation=policy.generation,
        decided_at=view.now,
        decisions=tuple(decisions),
        order=tuple(turn.case.volume.name for turn in turns.taken if turn.moves),
        watched=len(decisions),
        hot=by_tier[Tier.HOT],
        warm=by_tier[None],
        cold=by_tier[Tier.COLD],
        held=_policy_held(view),
    ), turns.met


def _policy_held(view: View) -> Held | None:
    """Say why nothing at all can move, whatever the volumes."""
    if view.world.placements is None:
        problem = view.world.placements_problem or "the migrator has not told where volumes are"
        return Held(Reason.PLACEMENT_UNKNOWN, problem)
    if not view.backend.can_migrate:
        return Held(Reason.BACKEND_UNABLE, view.backend.detail or "the migrator cannot execute migrations")
    if view.backend.max_concurrent == 0:
        return Held(Reason.MIGRATIONS_PAUSED, "the migrator's cap of concurrent migrations is 0")
    if view.heat.problem:
        return Held(Reason.HEAT_UNAVAILABLE, view.heat.problem)
    if view.heat.absent.quality is HeatQuality.STALE:
        return Held(Reason.HEAT_STALE, "the scorer has only old heat: Prometheus does not answer it")
    return None


def _stay(case: Case, held: Held) -> Decision:
    return Decision(
        case.volume.name,
        case.volume.handle,
        case.policy.name,
        Outcome.STAY,
        held.reason,
        held.detail,
        case.heat,
        case.place,
        held.until,
        case.size_bytes,
    )


def _after(turn: Turn) -> Decision:
    case = turn.case
    if turn.held is not None or not turn.moves:
        return _stay(case, turn.held or Held(Reason.ALREADY_IN_TIER, f"no replica is outside tier {case.wants}"))
    dry = case.policy.dry_run or case.view.backend.dry_run
    up = case.wants is Tier.HOT
    where = ", ".join(f"{move.source_pool} to {move.target_pool}" for move in turn.moves)
    whose = "the policy" if case.policy.dry_run else "the migrator"
    return replace(
        _stay(case, Held(Reason.ABOVE_HIGH_WATERMARK if up else Reason.BELOW_LOW_WATERMARK, "")),
        outcome=Outcome.WOULD_MOVE if dry else Outcome.MOVE,
        detail=f"{wish(case)}: {where}" + (f" ({whose} is in dry run)" if dry else ""),
        direction=Direction.PROMOTE if up else Direction.DEMOTE,
        target=case.wants,
        moves=turn.moves,
    )
