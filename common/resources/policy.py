"""
StoragePolicy: what an administrator asks for, as it is written, and as it is understood.

The schema of the custom resource refuses most nonsense at the door. What a schema cannot say, and what an API server
without our schema would let through, is refused here with a sentence for a condition.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from math import isfinite
from typing import Final

import msgspec

from common.durations import format_duration, parse_duration
from common.placement import Tier
from common.resources.meta import Condition, ObjectMeta, Time
from common.selectors import LabelSelector

MIN_WINDOW: Final = timedelta(minutes=1)
MAX_WINDOW: Final = timedelta(days=30)


class NoData(StrEnum):
    """What to make of a volume without samples."""

    COLD_IF_DETACHED = "ColdIfDetached"
    COLD = "Cold"
    HOLD = "Hold"


class PolicyPhase(StrEnum):
    """The one-word status of a policy."""

    PENDING = "Pending"
    ACTIVE = "Active"
    DISABLED = "Disabled"
    ERROR = "Error"


class PolicySpec(msgspec.Struct, frozen=True, rename="camel"):
    """spec, with its defaults."""

    high_watermark_iops: float = msgspec.field(default=5000, name="highWatermarkIOPS")
    low_watermark_iops: float = msgspec.field(default=500, name="lowWatermarkIOPS")
    warm_watermark_iops: float = msgspec.field(default=0, name="warmWatermarkIOPS")
    sampling_window: str = "1h"
    cooldown_period: str = "24h"
    storage_class_name: str = "mayastor"
    volume_selector: LabelSelector = LabelSelector()
    hot_pool_selector: LabelSelector | None = None
    warm_pool_selector: LabelSelector | None = None
    cold_pool_selector: LabelSelector | None = None
    nvme_pool_selector: LabelSelector | None = None
    sata_pool_selector: LabelSelector | None = None
    max_concurrent_migrations: int = 2
    migration_timeout: str = "30m"
    no_data: NoData = NoData.COLD_IF_DETACHED
    enabled: bool = True
    dry_run: bool = False


class ConditionType(StrEnum):
    """The conditions of a policy."""

    VALID = "Valid"
    """The spec can be followed."""
    READY = "Ready"
    """The policy is followed: nothing keeps all its volumes where they are."""


class HistoryEntry(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """One ended migration in status.migrationHistory."""

    volume: str
    migration: str
    state: str
    reason: str = ""
    from_pools: tuple[str, ...] = ()
    to_pools: tuple[str, ...] = ()
    started_at: Time | None = None
    ended_at: Time | None = None


class PolicyStatus(msgspec.Struct, frozen=True, rename="camel"):
    """status as the planner writes it; volumes counted by heat."""

    phase: PolicyPhase = PolicyPhase.PENDING
    watched_volumes: int = 0
    hot_volumes: int = 0
    warm_volumes: int = 0
    cold_volumes: int = 0
    active_migrations: int = 0
    last_reconcile_time: Time | None = None
    observed_generation: int = 0
    conditions: tuple[Condition, ...] = ()
    migration_history: tuple[HistoryEntry, ...] = ()


class StoragePolicy(msgspec.Struct, frozen=True, rename="camel"):
    """The custom resource."""

    metadata: ObjectMeta
    spec: PolicySpec = PolicySpec()
    status: PolicyStatus = PolicyStatus()


class PolicyDocument(msgspec.Struct, frozen=True):
    """A StoragePolicy whose spec and status are still as they came, so that one that cannot be read has a name yet."""

    metadata: ObjectMeta
    spec: msgspec.Raw = msgspec.Raw(b"{}")
    status: msgspec.Raw = msgspec.Raw(b"{}")

    def resource(self) -> StoragePolicy:
        """
        Decode the spec; the status is left out.

        Raises InvalidPolicyError for a spec of the wrong form.
        """
        try:
            return StoragePolicy(self.metadata, msgspec.json.decode(self.spec, type=PolicySpec))
        except msgspec.MsgspecError as error:
            problem = f"spec cannot be read: {error}"
            raise InvalidPolicyError(self.metadata.name, (("spec", problem),)) from error

    def last_status(self) -> PolicyStatus:
        """Decode the status; one that cannot be read is as good as none, since each reconcile writes it whole."""
        try:
            return msgspec.json.decode(self.status, type=PolicyStatus)
        except msgspec.MsgspecError:
            return PolicyStatus()


@dataclass(frozen=True, slots=True)
class Policy:
    """A valid policy, in the types that decisions are made with."""

    name: str
    uid: str
    generation: int
    created: datetime
    high_watermark: float
    """I/O operations a second; strictly above is hot."""
    low_watermark: float
    """I/O operations a second; strictly below is cold."""
    window: timedelta
    cooldown: timedelta
    storage_class: str
    volume_selector: LabelSelector
    hot_pools: LabelSelector
    cold_pools: LabelSelector
    max_concurrent: int
    migration_timeout: timedelta
    no_data: NoData
    enabled: bool
    dry_run: bool

    def pools(self, tier: Tier) -> LabelSelector:
        """Return the selector of a tier's pools."""
        return self.hot_pools if tier is Tier.HOT else self.cold_pools


class InvalidPolicyError(ValueError):
    """The policy cannot be followed; `field` is the first offending one, the message one line about all."""

    def __init__(self, name: str, problems: tuple[tuple[str, str], ...]) -> None:
        self.field = problems[0][0]
        self.problems = problems
        super().__init__(f"StoragePolicy {name}: " + "; ".join(text for _, text in problems))


def policy_from(resource: StoragePolicy, *, min_window: timedelta = MIN_WINDOW) -> Policy:
    """
    Understand a StoragePolicy.

    Raises InvalidPolicyError naming every field that makes it unusable.
    """
    spec, meta = resource.spec, resource.metadata
    problems: list[tuple[str, str]] = []
    windows = _durations(spec, min_window, problems)
    _check_watermarks(spec, problems)
    selectors = _selectors(spec, problems)
    if not 1 <= spec.max_concurrent_migrations <= 1000:
        problems.append(
            ("maxConcurrentMigrations", f"maxConcurrentMigrations {spec.max_concurrent_migrations} is not in 1..1000")
        )
    if not spec.storage_class_name:
        problems.append(("storageClassName", "storageClassName is empty"))
    if problems:
        raise InvalidPolicyError(meta.name, tuple(problems))
    return Policy(
        name=meta.name,
        uid=meta.uid,
        generation=meta.generation,
        created=meta.creation_timestamp or datetime.min.replace(tzinfo=UTC),
        high_watermark=spec.high_watermark_iops,
        low_watermark=spec.low_watermark_iops,
        window=windows["samplingWindow"],
        cooldown=windows["cooldownPeriod"],
        storage_class=spec.storage_class_name,
        volume_selector=spec.volume_selector,
        hot_pools=selectors[Tier.HOT],
        cold_pools=selectors[Tier.COLD],
        max_concurrent=spec.max_concurrent_migrations,
        migration_timeout=windows["migrationTimeout"],
        no_data=spec.no_data,
        enabled=spec.enabled,
        dry_run=spec.dry_run,
    )


def _durations(spec: PolicySpec, min_window: timedelta, problems: list[tuple[str, str]]) -> dict[str, timedelta]:
    bounds = {
        "samplingWindow": (spec.sampling_window, min_window, MAX_WINDOW),
        "cooldownPeriod": (spec.cooldown_period, timedelta(0), timedelta(days=365)),
        "migrationTimeout": (spec.migration_timeout, timedelta(seconds=1), timedelta(days=7)),
    }
    parsed: dict[str, timedelta] = {}
    for field, (text, low, high) in bounds.items():
        try:
            parsed[field] = parse_duration(text)
        except ValueError as error:
            problems.append((field, f"{field}: {error}"))
            continue
        if not low <= parsed[field] <= high:
            bounds_text = f"{format_duration(low)} and {format_duration(high)}"
            problems.append((field, f"{field} {text} is not between {bounds_text}"))
    return parsed


def _check_watermarks(spec: PolicySpec, problems: list[tuple[str, str]]) -> None:
    high, low, warm = spec.high_watermark_iops, spec.low_watermark_iops, spec.warm_watermark_iops
    for field, value in (("highWatermarkIOPS", high), ("lowWatermarkIOPS", low), ("warmWatermarkIOPS", warm)):
        if not isfinite(value) or value < 0:
            problems.append((field, f"{field} {value} is not a number of at least 0"))
    if not low < high:
        problems.append(("lowWatermarkIOPS", f"lowWatermarkIOPS {low:g} is not below highWatermarkIOPS {high:g}"))
    if warm:
        problems.append(
            ("warmWatermarkIOPS", f"warmWatermarkIOPS {warm:g}: three tiers are not supported; set it to 0")
        )


def _selectors(spec: PolicySpec, problems: list[tuple[str, str]]) -> dict[Tier, LabelSelector]:
    if spec.warm_pool_selector is not None:
        problems.append(("warmPoolSelector", "warmPoolSelector: only two tiers are supported; leave it out"))
    chosen: dict[Tier, LabelSelector] = {}
    names = {
        Tier.HOT: (("hotPoolSelector", spec.hot_pool_selector), ("nvmePoolSelector", spec.nvme_pool_selector)),
        Tier.COLD: (("coldPoolSelector", spec.cold_pool_selector), ("sataPoolSelector", spec.sata_pool_selector)),
    }
    named = {"volumeSelector": spec.volume_selector}
    for tier, ((name, selector), (alias, other)) in names.items():
        if selector is not None and other is not None and selector != other:
            problems.append((alias, f"{alias} is another name of {name}, and they differ: set one"))
        given = selector if selector is not None else other
        chosen[tier] = LabelSelector(match_labels={"tier": tier.value}) if given is None else given
        named[alias if selector is None and other is not None else name] = chosen[tier]
    for field, selector in named.items():
        problems.extend((field, f"{field}: {problem}") for problem in selector.problems())
    if chosen[Tier.HOT] == chosen[Tier.COLD]:
        problems.append(("coldPoolSelector", f"coldPoolSelector selects the hot tier's pools ({chosen[Tier.HOT]})"))
    return chosen
