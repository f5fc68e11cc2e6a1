"""
How refusals are worded: a status, a kind, and a message of the family that Mayastor's own belong to.

Clients tell refusals apart by status and kind and, within a kind, by the name in the message ("SvcError :: Name: …").
That name, and what it is about, are as recorded; the rest is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from sandbox.fronts.mayastor_rest.shapes import ErrorBody
from sandbox.world.control.plane import Refusal, RefusedError


@dataclass(frozen=True, slots=True)
class Answer:
    """What is answered. A body of None is an empty one."""

    status: int
    body: object = None


@dataclass(frozen=True, slots=True)
class _Wording:
    status: int
    kind: str
    name: str
    """The name in the message; empty for a message that has none."""
    text: Callable[[str, str], str]
    details: Callable[[str, str], str] = lambda _subject, _detail: ""


def _not_found(name: str, thing: str) -> _Wording:
    return _Wording(404, "NotFound", name, lambda subject, _: f"{thing} '{subject}' not found")


def _precondition(name: str, text: Callable[[str, str], str], kind: str = "FailedPrecondition") -> _Wording:
    return _Wording(412, kind, name, text)


def _exists(thing: str) -> _Wording:
    return _Wording(
        422,
        "AlreadyExists",
        "AlreadyExists",
        lambda subject, _: f"{thing} Resource id {subject} already exists",
        lambda subject, _: f"id: {subject}",
    )


def _in_use(thing: str) -> _Wording:
    return _Wording(
        409,
        "InUse",
        "InUse",
        lambda subject, _: f"{thing} Resource id {subject} still in use",
        lambda subject, _: f"id: {subject}",
    )


def _no_resources(what: str) -> _Wording:
    return _Wording(
        507,
        "ResourceExhausted",
        "NotEnoughResources",
        lambda _s, _d: "Operation failed due to insufficient resources",
        lambda _, detail: f"Not enough {what} available, {detail}",
    )


_WORDINGS: Final[Mapping[Refusal, _Wording]] = MappingProxyType(
    {
        Refusal.VOLUME_NOT_FOUND: _not_found("VolumeNotFound", "Volume"),
        Refusal.NODE_NOT_FOUND: _not_found("NodeNotFound", "Node"),
        Refusal.POOL_NOT_FOUND: _not_found("PoolNotFound", "Pool"),
        Refusal.REPLICA_NOT_FOUND: _not_found("ReplicaNotFound", "Replica"),
        Refusal.TARGET_NOT_FOUND: _not_found("NexusNotFound", "Nexus"),
        Refusal.CHILD_NOT_FOUND: _not_found("ChildNotFound", "Child of nexus"),
        Refusal.LAST_CHILD: _precondition(
            "LastHealthyChild", lambda subject, _: f"Cannot remove the last healthy child of nexus '{subject}'"
        ),
        Refusal.VOLUME_EXISTS: _exists("Volume"),
        Refusal.POOL_EXISTS: _exists("Pool"),
        Refusal.POOL_CORDON_EXISTS: _exists("Pool"),
        Refusal.CONFLICT: _Wording(
            409, "Conflict", "Conflict", lambda _s, _d: "Conflicts with existing operation - please retry"
        ),
        Refusal.REPLICA_IN_USE: _in_use("Replica"),
        Refusal.POOL_IN_USE: _in_use("Pool"),
        Refusal.COUNT_ACHIEVED: _precondition(
            "ReplicaCountAchieved", lambda subject, detail: f"Replica count of Volume '{subject}' is already '{detail}'"
        ),
        Refusal.COUNT_TOO_FAR: _precondition(
            "ReplicaChangeCount", lambda _s, _d: "Replica count only allowed to change by a maximum of one at a time"
        ),
        Refusal.LAST_REPLICA: _precondition(
            "LastReplica", lambda subject, _: f"Cannot remove the last replica '' of volume '{subject}'"
        ),
        Refusal.GROUP_MINIMUM: _precondition(
            "RestrictedReplicaCount", lambda _, detail: f"Replica Count of {detail} is not attainable for AffinityGroup"
        ),
        Refusal.NOT_HEALTHY: _precondition(
            "ReplicaIncrease",
            lambda subject, detail: f"Unable to increase replica count due to volume '{subject}' in state '{detail}'",
        ),
        Refusal.NOT_READY: _Wording(
            503,
            "Unavailable",
            "NotReady",
            lambda subject, _: f"Volume Resource id {subject} needs to be reconciled. Please retry",
        ),
        Refusal.NO_POOLS: _no_resources("suitable pools"),
        Refusal.NO_NODES: _no_resources("nodes"),
        Refusal.MAX_REBUILDS: _Wording(
            507,
            "ResourceExhausted",
            "MaxRebuilds",
            lambda _, detail: f"Unable to start rebuild. Maximum number of rebuilds permitted is {detail}",
        ),
        Refusal.PUBLISHED: _precondition(
            "VolumeAlreadyPublished",
            lambda subject, detail: (
                f"Volume '{subject}' is already published on node '{detail}' with protocol 'Some(Nvmf)'"
            ),
            "AlreadyPublished",
        ),
        Refusal.NOT_PUBLISHED: _precondition(
            "VolumeNotPublished", lambda subject, _: f"Volume '{subject}' not published", "NotPublished"
        ),
        Refusal.NO_HEALTHY_REPLICA: _precondition(
            "NoOnlineReplicas", lambda subject, _: f"No online replicas are available for Volume '{subject}'"
        ),
        Refusal.NODE_CORDONED: _precondition("CordonedNode", lambda subject, _: f"Node {subject} is cordoned"),
        Refusal.NODE_OFFLINE: _precondition("NodeNotOnline", lambda subject, _: f"Node '{subject}' is not online"),
        Refusal.CORDON_LABEL_EXISTS: _precondition(
            "CordonLabel", lambda subject, detail: f"Node {subject} is already cordoned with label '{detail}'"
        ),
        Refusal.CORDON_LABEL_MISSING: _precondition(
            "UncordonLabel", lambda subject, detail: f"Node {subject} does not have a cordon label '{detail}'"
        ),
        Refusal.LABEL_EXISTS: _precondition(
            "LabelsExists", lambda subject, detail: f"{subject} is already labelled with labels '{detail}'"
        ),
        Refusal.LABEL_MISSING: _precondition(
            "LabelNotFound", lambda subject, detail: f"{subject} doesn't have the label key '{detail}'"
        ),
    }
)


def refusal(error: RefusedError) -> Answer:
    """Word a refusal."""
    if error.refusal is Refusal.NO_TARGET:
        return Answer(412, ErrorBody(details="", message="volume target not available", kind="FailedPrecondition"))
    if error.refusal is Refusal.DATA_PLANE:
        return data_plane_failed(error.detail)
    wording = _WORDINGS[error.refusal]
    message = f"SvcError :: {wording.name}: {wording.text(error.subject, error.detail)}"
    details = wording.details(error.subject, error.detail)
    return Answer(wording.status, ErrorBody(details=details, message=message, kind=wording.kind))


def malformed(details: str) -> Answer:
    """A request that cannot be read."""
    return Answer(400, ErrorBody(details=details, message="", kind="Deserialize"))


def unauthorized(path: str, details: str) -> Answer:
    return Answer(401, ErrorBody(details=details, message=path, kind="Unauthorized"))


def timed_out() -> Answer:
    """The data plane or etcd took longer than the REST server waits. What becomes of the operation is open."""
    message = _status("Cancelled", "Timeout expired")
    return Answer(503, ErrorBody(details="", message=message, kind="Aborted"))


def core_down() -> Answer:
    """The REST server does not reach the core agent. Nothing happened."""
    cause = "error trying to connect: tcp connect error: Connection refused (os error 111)"
    return Answer(503, ErrorBody(details="", message=_status("Unavailable", cause), kind="Unavailable"))


def data_plane_failed(request: str, cause: str = "no") -> Answer:
    """A node refused what the control plane asked of it."""
    details = f"{request}::{_status('Internal', cause)}"
    return Answer(500, ErrorBody(details=details, message="SvcError::GrpcRequestError", kind="Internal"))


def _status(code: str, message: str) -> str:
    return f'status: {code}, message: "{message}", details: [], metadata: MetadataMap {{ headers: {{}} }}'
