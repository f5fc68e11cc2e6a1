"""
The answers of Mayastor's REST API, cut down to the fields that are used.

Fields that are not named here are passed over, those that a version may lack are None, and words such as states stay
texts: which of them are known, and that no other is good, is decided where they are read (facts.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec


class Shape(msgspec.Struct, frozen=True):
    """A part of an answer."""


# --- volumes -----------------------------------------------------------------------------------------------------


class TargetSpec(Shape, frozen=True):
    """Where a volume is to be published."""

    node: str | None = None


class AffinityGroup(Shape, frozen=True):
    """Volumes whose replicas are to be kept apart."""

    id: str


class VolumeSpec(Shape, frozen=True):
    """What is wanted of a volume."""

    uuid: str
    num_replicas: int
    size: int
    status: str = ""
    target: TargetSpec | None = None
    topology: Mapping[str, Any] | None = None
    """As it came: versions differ in what they ask for, and what is not understood must not be missed."""
    thin: bool = False
    affinity_group: AffinityGroup | None = None
    num_snapshots: int | None = None
    content_source: Mapping[str, Any] | None = None
    encrypted: bool | None = None


class ReplicaPlace(Shape, frozen=True):
    """One replica, as the volume's state has it."""

    state: str = ""
    node: str | None = None
    pool: str | None = None
    child_status: str | None = msgspec.field(default=None, name="child-status")
    rebuild_progress: float | None = msgspec.field(default=None, name="rebuild-progress")


class Child(Shape, frozen=True):
    """A replica, as a target reaches it."""

    uri: str


class Nexus(Shape, frozen=True, rename="camel"):
    """A target, of whatever volume."""

    uuid: str
    node: str = ""
    state: str = ""
    device_uri: str = ""
    children: tuple[Child, ...] = ()


class VolumeState(Shape, frozen=True):
    """What there is of a volume; up to the cache's age old."""

    status: str = ""
    target: Nexus | None = None
    replica_topology: Mapping[str, ReplicaPlace] = msgspec.field(default_factory=dict)


class Volume(Shape, frozen=True):
    """A volume."""

    spec: VolumeSpec
    state: VolumeState


class VolumePage(Shape, frozen=True):
    """Some volumes. Each is decoded by itself, so that one that cannot be spoils no other."""

    entries: tuple[msgspec.Raw, ...]
    next_token: int | None = None


class _NamedSpec(Shape, frozen=True):
    uuid: str = "?"


class NamedVolume(Shape, frozen=True):
    """As much as is needed to say which volume could not be decoded."""

    spec: _NamedSpec = _NamedSpec()


# --- pools and nodes ---------------------------------------------------------------------------------------------


class Constraints(Shape, frozen=True):
    """What a pool is closed for. The last has two names."""

    replicas: bool = False
    snapshots: bool = False
    restores: bool = False
    imports: bool = False
    import_: bool = msgspec.field(default=False, name="import")


class CordonDrain(Shape, frozen=True):
    """A pool's cordon; None where it is something else, such as a drain."""

    cordoned: Constraints | None = None


class PoolSpec(Shape, frozen=True):
    """What is wanted of a pool."""

    node: str
    status: str = ""
    labels: Mapping[str, str] | None = None
    encrypted: bool | None = None
    cordon_drain: CordonDrain | None = None


class PoolState(Shape, frozen=True):
    """What there is of a pool."""

    status: str = ""
    capacity: int = 0
    used: int = 0


class Pool(Shape, frozen=True):
    """A pool. It has no state while its node is away."""

    id: str
    spec: PoolSpec
    state: PoolState | None = None


class CordonLabels(Shape, frozen=True):
    """Labels of a node's cordons and drains."""

    cordonlabels: tuple[str, ...] = ()
    drainlabels: tuple[str, ...] = ()


class NodeSpec(Shape, frozen=True):
    """What is wanted of a node."""

    labels: Mapping[str, str] | None = None
    cordondrainstate: Mapping[str, CordonLabels] | None = None
    """By the kind of it: cordonedstate, drainingstate, drainedstate, and whatever comes."""
    version: str | None = None


class NodeState(Shape, frozen=True):
    """What there is of a node."""

    status: str = ""
    version: str | None = None


class Node(Shape, frozen=True):
    """A node that stores."""

    id: str
    spec: NodeSpec | None = None
    state: NodeState | None = None
