"""
Plans as messages, and a spec from a message.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from couchestor.planner.v1 import planner_pb2 as pb
from couchestor.scorer.v1 import scorer_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from common.durations import format_duration
from common.resources.meta import ObjectMeta
from common.resources.policy import InvalidPolicyError, NoData, Policy, PolicySpec, StoragePolicy, policy_from
from common.rpc.errors import InvalidArgument
from common.selectors import LabelSelector, Operator, Requirement
from planner.core.plan import Decision, Direction, Explanation, Outcome, Plan, Verdict
from planner.core.world import HeatQuality, HeatScore

OUTCOMES: Final = {
    Outcome.STAY: pb.OUTCOME_STAY,
    Outcome.MOVE: pb.OUTCOME_MOVE,
    Outcome.WOULD_MOVE: pb.OUTCOME_WOULD_MOVE,
}
_DIRECTIONS: Final = {Direction.PROMOTE: pb.DIRECTION_PROMOTE, Direction.DEMOTE: pb.DIRECTION_DEMOTE}
_QUALITIES: Final = {
    HeatQuality.OK: scorer_pb2.HEAT_QUALITY_OK,
    HeatQuality.NO_DATA: scorer_pb2.HEAT_QUALITY_NO_DATA,
    HeatQuality.STALE: scorer_pb2.HEAT_QUALITY_STALE,
    HeatQuality.UNAVAILABLE: scorer_pb2.HEAT_QUALITY_UNAVAILABLE,
}
_CAPITAL: Final = re.compile(r"(?<=[a-z])(?=[A-Z])")


def summary_to(plan: Plan) -> pb.Plan:
    """Write a plan without its decisions."""
    return pb.Plan(
        policy_name=plan.policy,
        policy_generation=plan.generation,
        decided_at=timestamp(plan.decided_at),
        watched_volumes=plan.watched,
        hot_volumes=plan.hot,
        warm_volumes=plan.warm,
        cold_volumes=plan.cold,
        moving_volumes=sum(decision.outcome is not Outcome.STAY for decision in plan.decisions),
        reason=plan.held.reason.value if plan.held is not None else "",
        detail=plan.held.detail if plan.held is not None else "",
    )


def decision_to(decision: Decision) -> pb.Decision:
    """Write a decision."""
    return pb.Decision(
        volume=decision.volume,
        volume_handle=decision.volume_handle,
        policy_name=decision.policy,
        outcome=OUTCOMES[decision.outcome],
        direction=_DIRECTIONS[decision.direction] if decision.direction is not None else pb.DIRECTION_UNSPECIFIED,
        reason=decision.reason.value,
        detail=decision.detail,
        heat=_heat_to(decision.volume, decision.heat) if decision.heat is not None else None,
        current_tier=decision.current.value,
        target_tier=decision.target.value if decision.target is not None else "",
        moves=[
            pb.ReplicaMove(source_pool=move.source_pool, source_replica=move.source_uuid, target_pool=move.target_pool)
            for move in decision.moves
        ],
        until=timestamp(decision.until),
        size_bytes=decision.size_bytes,
    )


def explanation_to(explanation: Explanation) -> pb.PolicyExplanation:
    """Write one policy's view of a volume."""
    return pb.PolicyExplanation(
        decision=decision_to(explanation.decision),
        checks=[_check_to(verdict) for verdict in explanation.verdicts],
    )


def _check_to(verdict: Verdict) -> pb.Check:
    held = verdict.held
    return pb.Check(
        name=verdict.check,
        passed=verdict.passed,
        reason=held.reason.value if held is not None else "",
        detail=verdict.detail,
        until=timestamp(held.until) if held is not None else None,
    )


def _heat_to(volume: str, heat: HeatScore) -> scorer_pb2.HeatScore:
    window = Duration()
    window.FromTimedelta(heat.window)
    return scorer_pb2.HeatScore(
        volume_id=volume,
        score=heat.score,
        read_iops=heat.read_iops,
        write_iops=heat.write_iops,
        latency_us=heat.latency_us,
        sample_count=heat.sample_count,
        calculated_at=timestamp(heat.calculated_at),
        window=window,
        source_metric=heat.source_metric,
        quality=_QUALITIES[heat.quality],
    )


def timestamp(moment: datetime | None) -> Timestamp | None:
    """Write a moment."""
    if moment is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp


def policy_of(spec: pb.StoragePolicySpec, *, min_window: timedelta) -> Policy:
    """
    Understand a spec that came in a call, as that of a policy without a name, older than all others.

    So it is judged by itself: which of two policies has a volume is not what is asked. Raises InvalidArgument.
    """
    given = {descriptor.name: _plain(value, f"spec.{descriptor.name}") for descriptor, value in spec.ListFields()}
    meta = ObjectMeta(name="", creation_timestamp=datetime.min.replace(tzinfo=UTC))
    try:
        return policy_from(StoragePolicy(meta, PolicySpec(**given)), min_window=min_window)
    except InvalidPolicyError as error:
        message = "; ".join(text for _, text in error.problems)
        raise InvalidArgument(f"spec.{_CAPITAL.sub('_', error.field).lower()}", message) from error


def _plain(value: Any, field: str) -> Any:
    """Turn the value of a field into what PolicySpec has."""
    if isinstance(value, Duration):
        return _duration(value, field)
    if isinstance(value, pb.LabelSelector):
        return _selector(value, field)
    return _member(NoData, value, field) if field == "spec.no_data" else value


def _duration(given: Duration, field: str) -> str:
    try:
        return format_duration(given.ToTimedelta())
    except (OverflowError, ValueError) as error:
        raise InvalidArgument(field, f"{given.seconds} s and {given.nanos} ns are no duration") from error


def _selector(given: pb.LabelSelector, field: str) -> LabelSelector:
    requirements = tuple(
        Requirement(
            item.key,
            _member(Operator, item.operator, f"{field}.match_expressions[{index}].operator"),
            tuple(item.values),
        )
        for index, item in enumerate(given.match_expressions)
    )
    return LabelSelector(dict(given.match_labels), requirements)


def _member(kind: Any, text: str, field: str) -> Any:
    try:
        return kind(text)
    except ValueError as error:
        raise InvalidArgument(field, f"{text!r} is not one of {', '.join(kind)}") from error
