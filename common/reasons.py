"""
The vocabulary: every reason the product gives, once.

Status conditions, Events, metrics, gRPC details, previews and the documentation use these words and no others, so
that what a person reads in one place can be searched for in all the rest.
"""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Why a volume moves, stays, is refused, or why a migration is in its state."""

    # A volume moves.
    ABOVE_HIGH_WATERMARK = "AboveHighWatermark"
    BELOW_LOW_WATERMARK = "BelowLowWatermark"
    REQUESTED = "Requested"

    # A policy as a whole: followed, or why it does nothing.
    POLICY_VALID = "PolicyValid"
    FOLLOWED = "Followed"
    MIGRATOR_UNREACHABLE = "MigratorUnreachable"
    POLICY_INVALID = "PolicyInvalid"
    POLICY_DISABLED = "PolicyDisabled"
    NOT_SYNCED = "NotSynced"
    MIGRATIONS_PAUSED = "MigrationsPaused"
    BACKEND_UNABLE = "BackendUnable"

    # A volume stays: what it is.
    NOT_WATCHED = "NotWatched"
    OTHER_POLICY = "OtherPolicy"
    VOLUME_UNHEALTHY = "VolumeUnhealthy"
    PLACEMENT_UNKNOWN = "PlacementUnknown"
    PINNED = "Pinned"
    PARKED = "Parked"
    ALREADY_IN_TIER = "AlreadyInTier"
    TIER_UNKNOWN = "TierUnknown"

    # A volume stays: its heat.
    BETWEEN_WATERMARKS = "BetweenWatermarks"
    HEAT_STALE = "HeatStale"
    HEAT_UNAVAILABLE = "HeatUnavailable"
    NO_DATA_ATTACHED = "NoDataAttached"
    NO_DATA_HELD = "NoDataHeld"

    # A volume stays: its past.
    COOLING_DOWN = "CoolingDown"
    ALREADY_MIGRATING = "AlreadyMigrating"
    BACKING_OFF = "BackingOff"

    # A volume stays: where it would go.
    NO_POOL_IN_TIER = "NoPoolInTier"
    NO_POOL_ONLINE = "NoPoolOnline"
    NO_POOL_ON_OTHER_NODE = "NoPoolOnOtherNode"
    NO_POOL_IN_TOPOLOGY = "NoPoolInTopology"
    NO_POOL_WITH_SPACE = "NoPoolWithSpace"
    COPY_TOO_LONG = "CopyTooLong"
    SIZE_UNKNOWN = "SizeUnknown"

    # A volume stays: its turn has not come.
    POLICY_CAP = "PolicyCap"
    GLOBAL_CAP = "GlobalCap"
    POOL_CAP = "PoolCap"
    NODE_CAP = "NodeCap"
    TIER_FULL = "TierFull"

    # The migrator refuses a move before it has written anything.
    MULTI_REPLICA_NOT_STEERABLE = "MultiReplicaNotSteerable"
    UNSUPPORTED_MAYASTOR_VOLUME = "UnsupportedMayastorVolume"
    VOLUME_NOT_FOUND = "VolumeNotFound"
    POOL_NOT_FOUND = "PoolNotFound"
    SOURCE_NOT_FOUND = "SourceNotFound"
    SAME_POOL = "SamePool"
    SAME_NODE = "SameNode"
    POOL_NOT_ONLINE = "PoolNotOnline"
    POOL_CORDONED = "PoolCordoned"
    TOPOLOGY_FORBIDS = "TopologyForbids"
    VOLUME_BEING_DELETED = "VolumeBeingDeleted"
    SOURCE_PRESERVED_BEFORE = "SourcePreservedBefore"
    REMOVAL_NOT_STEERABLE = "RemovalNotSteerable"
    PLACEMENT_NOT_STEERABLE = "PlacementNotSteerable"
    NO_FREE_NODE = "NoFreeNode"
    NOT_PUBLISHED = "NotPublished"
    OTHER_NEXUS_PRESENT = "OtherNexusPresent"
    HAS_SNAPSHOTS = "HasSnapshots"
    RESTORED_FROM_SNAPSHOT = "RestoredFromSnapshot"
    ENCRYPTION_FORBIDS = "EncryptionForbids"
    AFFINITY_GROUP_MINIMUM = "AffinityGroupMinimum"
    CORDONED_BY_OTHER = "CordonedByOther"
    NEIGHBOUR_DEGRADED = "NeighbourDegraded"
    TOO_MANY_LEVERS = "TooManyLevers"
    MIGRATOR_REFUSES = "MigratorRefuses"
    """With a reason that this version does not know; the detail has it."""

    # Why a migration waits.
    WAITING_FOR_SLOT = "WaitingForSlot"
    WAITING_FOR_REBUILD = "WaitingForRebuild"
    WAITING_FOR_SECOND_READ = "WaitingForSecondRead"
    WAITING_FOR_ORIGINALS = "WaitingForOriginals"
    WAITING_FOR_REMOVAL = "WaitingForRemoval"
    WAITING_FOR_PUBLISH = "WaitingForPublish"
    RETRYING_WRITE = "RetryingWrite"
    OUTCOME_UNKNOWN = "OutcomeUnknown"

    # How a migration ended (see migrator.core.model.END_STATES).
    MOVED = "Moved"
    DRY_RUN = "DryRun"
    SOURCE_PRESERVED = "SourcePreserved"
    VOLUME_GONE = "VolumeGone"
    CANCELLED = "Cancelled"
    TIMED_OUT = "TimedOut"
    REBUILD_FAILED = "RebuildFailed"
    TARGET_POOL_OFFLINE = "TargetPoolOffline"
    PLAN_EXPIRED = "PlanExpired"
    POLICY_CHANGED = "PolicyChanged"
    PLACEMENT_CHANGED = "PlacementChanged"
    REPLICA_COUNT_CHANGED = "ReplicaCountChanged"
    TOPOLOGY_CHANGED = "TopologyChanged"
    WRITE_REFUSED = "WriteRefused"
    WRITE_ALTERED = "WriteAltered"
    STEERING_INEFFECTIVE = "SteeringIneffective"
    TOPOLOGY_LEFT = "TopologyLeft"
    WRONG_REPLICA_REMOVED = "WrongReplicaRemoved"
    UNKNOWN_REPLICA = "UnknownReplica"
    ORIGINAL_LOST = "OriginalLost"
    REPLICA_LEFT = "ReplicaLeft"
    PARTLY_MOVED = "PartlyMoved"
    LEVERS_LEFT = "LeversLeft"
    JOURNAL_FULL = "JournalFull"
    RECORD_DELETED = "RecordDeleted"
    RECORD_LOST = "RecordLost"
