"""
The built-in kinds that the product and the sandbox use.

They have no schemas here. What kube-apiserver's own code does for each (a status to begin with, fields that must be
there) is a pair of small functions, written down as far as it shows.
"""

from __future__ import annotations

import re
from typing import Any, Final

from common.kube.api import EVENTS, LEASES, PERSISTENT_VOLUMES, VOLUME_ATTACHMENTS, Resource
from sandbox.world.kinds import CRDS, NAMESPACES, Body, Kind, Version
from sandbox.world.status import Cause, quoted
from sandbox.world.tables import AGE, Column


def _built_in(
    resource: Resource, singular: str, *, has_status: bool = False, columns: tuple[Column, ...] = (), **more: Any
) -> Kind:
    return Kind(
        group=resource.group,
        plural=resource.plural,
        kind=resource.kind,
        singular=singular,
        list_kind=f"{resource.kind}List",
        namespaced=resource.namespaced,
        versions=(Version(resource.version, has_status=has_status, columns=(*columns, AGE)),),
        storage=resource.version,
        **more,
    )


def _new_persistent_volume(body: Body, now: str) -> dict[str, Any]:
    # The finalizer kubernetes.io/pv-protection, which a real server adds and a controller takes off, is left out.
    spec = {"persistentVolumeReclaimPolicy": "Retain", "volumeMode": "Filesystem", **(body.get("spec") or {})}
    return {**body, "spec": spec, "status": {"phase": "Pending", "lastPhaseTransitionTime": now}}


def _persistent_volume_problems(body: Body) -> list[Cause]:
    spec = body.get("spec") or {}
    missing = [name for name in ("accessModes", "capacity") if not spec.get(name)]
    return [Cause("FieldValueRequired", "Required value", f"spec.{name}") for name in missing]


def _new_volume_attachment(body: Body, _now: str) -> dict[str, Any]:
    return {**body, "status": {"attached": False}}


def _volume_attachment_problems(body: Body) -> list[Cause]:
    spec = body.get("spec") or {}
    missing = [name for name in ("attacher", "nodeName") if not spec.get(name)]
    return [Cause("FieldValueRequired", "Required value", f"spec.{name}") for name in missing]


def _new_namespace(body: Body, _now: str) -> dict[str, Any]:
    metadata = body["metadata"]
    labels = {**(metadata.get("labels") or {}), "kubernetes.io/metadata.name": metadata["name"]}
    return {
        **body,
        "metadata": {**metadata, "labels": labels},
        "spec": {"finalizers": ["kubernetes"]},
        "status": {"phase": "Active"},
    }


def _new_definition(body: Body, now: str) -> dict[str, Any]:
    spec = body["spec"]
    names = {"singular": spec["names"]["kind"].lower(), "listKind": f"{spec['names']['kind']}List", **spec["names"]}
    conditions = [
        {"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": now}
        for kind, reason, message in (
            ("NamesAccepted", "NoConflicts", "no conflicts found"),
            ("Established", "InitialNamesAccepted", "the initial names have been accepted"),
        )
    ]
    stored = [version["name"] for version in spec["versions"] if version.get("storage")]
    status = {"conditions": conditions, "acceptedNames": names, "storedVersions": stored}
    return {**body, "spec": {**spec, "names": names}, "status": status}


def _definition_problems(body: Body) -> list[Cause]:
    spec = body.get("spec") or {}
    names = spec.get("names") or {}
    for path, value in (("spec.group", spec.get("group")), ("spec.names.kind", names.get("kind"))):
        if not value:
            return [Cause("FieldValueRequired", "Required value", path)]
    wanted = f"{names.get('plural')}.{spec['group']}"
    if body["metadata"]["name"] != wanted:
        rule = f'Invalid value: {quoted(body["metadata"]["name"])}: must be spec.names.plural+"."+spec.group'
        return [Cause("FieldValueInvalid", rule, "metadata.name")]
    versions = spec.get("versions") or ()
    if sum(bool(version.get("storage")) for version in versions) != 1:
        rule = "must have exactly one version marked as storage version"
        return [Cause("FieldValueInvalid", f"Invalid value: {quoted(versions)}: {rule}", "spec.versions")]
    return [
        Cause("FieldValueRequired", "Required value: schemas are required", f"spec.versions[{index}].schema")
        for index, version in enumerate(versions)
        if not (version.get("schema") or {}).get("openAPIV3Schema")
    ]


_MICRO_TIME: Final = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{6}(Z|[+-]\d{2}:\d{2})")


def _micro_time_problems(holder: Body, prefix: str, *names: str) -> list[Cause]:
    # kube-apiserver parses these with exactly six digits, and answers 400 where we answer 422: the same class.
    return [
        Cause(
            "FieldValueInvalid", f"Invalid value: {quoted(holder[name])}: not a time with microseconds", prefix + name
        )
        for name in names
        if holder.get(name) is not None and not (isinstance(holder[name], str) and _MICRO_TIME.fullmatch(holder[name]))
    ]


def _lease_problems(body: Body) -> list[Cause]:
    spec = body.get("spec") or {}
    causes = _micro_time_problems(spec, "spec.", "acquireTime", "renewTime")
    for name, least, rule in (
        ("leaseDurationSeconds", 1, "must be greater than 0"),
        ("leaseTransitions", 0, "must be greater than or equal to 0"),
    ):
        value = spec.get(name)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
            causes.append(Cause("FieldValueInvalid", f"Invalid value: {quoted(value)}: {rule}", f"spec.{name}"))
    return causes


_LONGEST_NOTE: Final = 1024
_LONGEST_WORD: Final = 128


def _event_problems(body: Body) -> list[Cause]:
    causes = _micro_time_problems(body, "", "eventTime")
    if body.get("eventTime") is None:
        causes.append(Cause("FieldValueRequired", "Required value", "eventTime"))
    for name in ("reportingController", "reportingInstance", "action", "reason"):
        value = body.get(name) or ""
        if not value:
            causes.append(Cause("FieldValueRequired", "Required value", name))
        elif len(value) > _LONGEST_WORD:
            rule = f'Invalid value: "": can have at most {_LONGEST_WORD} characters'
            causes.append(Cause("FieldValueInvalid", rule, name))
    if body.get("type") not in {"Normal", "Warning"}:
        rule = f'Invalid value: "": has invalid value: {body.get("type") or ""}'
        causes.append(Cause("FieldValueInvalid", rule, "type"))
    if len(body.get("note") or "") > _LONGEST_NOTE:
        rule = f'Invalid value: "": can have at most {_LONGEST_NOTE} characters'
        causes.append(Cause("FieldValueInvalid", rule, "message"))
    return [*causes, *_event_series_problems(body.get("series")), *_event_namespace_problems(body)]


def _event_series_problems(series: Body | None) -> list[Cause]:
    if series is None:
        return []
    causes = _micro_time_problems(series, "series.", "lastObservedTime")
    if (series.get("count") or 0) < 2:
        causes.append(Cause("FieldValueInvalid", 'Invalid value: "": should be at least 2', "series.count"))
    if series.get("lastObservedTime") is None:
        causes.append(Cause("FieldValueRequired", "Required value", "series.lastObservedTime"))
    return causes


def _event_namespace_problems(body: Body) -> list[Cause]:
    about = (body.get("regarding") or {}).get("namespace") or ""
    where = body["metadata"]["namespace"]
    # An event about something without a namespace belongs into "default" (or kube-system).
    if (about and about != where and where != "default") or (not about and where not in {"default", "kube-system"}):
        rule = f"Invalid value: {quoted(about)}: does not match event.namespace"
        return [Cause("FieldValueInvalid", rule, "involvedObject.namespace")]
    return []


BUILT_IN: Final = (
    _built_in(
        NAMESPACES,
        "namespace",
        has_status=True,
        short_names=("ns",),
        columns=(Column("Status", ".status.phase"),),
        begin=_new_namespace,
    ),
    _built_in(
        PERSISTENT_VOLUMES,
        "persistentvolume",
        has_status=True,
        short_names=("pv",),
        columns=(
            Column("Capacity", ".spec.capacity.storage"),
            Column("Status", ".status.phase"),
            Column("Claim", ".spec.claimRef.name"),
            Column("StorageClass", ".spec.storageClassName"),
        ),
        status_takes_metadata=True,
        begin=_new_persistent_volume,
        problems=_persistent_volume_problems,
    ),
    _built_in(
        VOLUME_ATTACHMENTS,
        "volumeattachment",
        has_status=True,
        columns=(
            Column("Attacher", ".spec.attacher"),
            Column("PV", ".spec.source.persistentVolumeName"),
            Column("Node", ".spec.nodeName"),
            Column("Attached", ".status.attached", "boolean"),
        ),
        begin=_new_volume_attachment,
        problems=_volume_attachment_problems,
        immutable=("spec",),
    ),
    _built_in(
        EVENTS,
        "event",
        short_names=("ev",),
        columns=(
            Column("Type", ".type"),
            Column("Reason", ".reason"),
            Column("Object", ".regarding.name"),
            Column("Message", ".note"),
        ),
        problems=_event_problems,
        immutable=(
            "eventTime",
            "reportingController",
            "reportingInstance",
            "action",
            "reason",
            "regarding",
            "note",
            "type",
        ),
    ),
    _built_in(LEASES, "lease", columns=(Column("Holder", ".spec.holderIdentity"),), problems=_lease_problems),
    _built_in(
        CRDS,
        "customresourcedefinition",
        has_status=True,
        has_generation=True,
        begin=_new_definition,
        problems=_definition_problems,
    ),
)
