"""
The part of an object that belongs to the server: names, identity, and who may change what.

One function makes the metadata of a new object, one that of a changed object; what a client may not set is put back
or refused, as kube-apiserver does for each field.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from sandbox.world.status import Cause, StatusError, quoted

Metadata = Mapping[str, Any]

NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_NAME_RULE: Final = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    r"'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
_QUALIFIED: Final = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
_QUALIFIED_RULE: Final = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric "
    "character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
    "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)
_LABEL_VALUE: Final = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")
_LABEL_VALUE_RULE: Final = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is "
    "'(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)
_ANNOTATION_BYTES: Final = 256 * 1024
_LONGEST_NAME: Final = 253
_LONGEST_PART: Final = 63

_CLIENTS: Final = ("generateName", "labels", "annotations", "finalizers", "ownerReferences")
"""What clients may set; name and namespace come from the request."""
_SERVERS: Final = ("uid", "creationTimestamp", "generation", "deletionTimestamp", "deletionGracePeriodSeconds")
_IMMUTABLE: Final = ("uid", "deletionTimestamp", "deletionGracePeriodSeconds")
"""Those of the server's that a client is told about; the others are silently put back."""


def checked_shape(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata, if its types are right. Raises StatusError 400."""
    metadata = body.get("metadata")
    if metadata is None:
        return {}
    shapes: tuple[tuple[str, type, type], ...] = (
        ("labels", dict, str),
        ("annotations", dict, str),
        ("finalizers", list, str),
        ("ownerReferences", list, dict),
    )
    if not isinstance(metadata, dict):
        raise _undecodable("metadata", metadata)
    # A null among labels or annotations is an empty text to a server written in Go.
    metadata = {**metadata}
    for field in ("labels", "annotations"):
        if isinstance(metadata.get(field), dict):
            metadata[field] = {key: "" if value is None else value for key, value in metadata[field].items()}
    for field, container, item in shapes:
        value = metadata.get(field)
        if value is None:
            continue
        members = value.values() if isinstance(value, dict) else value
        if not isinstance(value, container) or not all(isinstance(member, item) for member in members):
            raise _undecodable(field, value)
    for field in ("name", "namespace", "uid", "resourceVersion"):
        if not isinstance(metadata.get(field), str | None):
            raise _undecodable(field, metadata[field])
    return metadata


def _undecodable(field: str, value: object) -> StatusError:
    cause = Cause(
        "FieldValueInvalid", f"Invalid value: {quoted(value)}: cannot unmarshal into ObjectMeta.{field}", "patch"
    )
    return StatusError(422, "Invalid", f' "" is invalid: {cause}', causes=[cause])


def created(metadata: Metadata, *, namespace: str, uid: str, now: str, generation: int | None) -> dict[str, Any]:
    """Make the metadata of a new object out of what the client sent; generation None: this kind has none."""
    fresh = {key: metadata[key] for key in _CLIENTS if metadata.get(key)}
    fresh["name"] = metadata["name"]
    if namespace:
        fresh["namespace"] = namespace
    fresh["uid"] = uid
    fresh["creationTimestamp"] = now
    if generation is not None:
        fresh["generation"] = generation
    return fresh


def updated(old: Metadata, new: Metadata) -> tuple[dict[str, Any], list[Cause]]:
    """Make the metadata of a changed object, and say what the client must not do."""
    causes = [
        Cause("FieldValueInvalid", f"Invalid value: {quoted(new[key])}: field is immutable", f"metadata.{key}")
        for key in _IMMUTABLE
        if new.get(key) is not None and new[key] != old.get(key)
    ]
    added = [item for item in new.get("finalizers") or () if item not in (old.get("finalizers") or ())]
    if "deletionTimestamp" in old and added:
        found = ", ".join(quoted(item) for item in added)
        why = "no new finalizers can be added if the object is being deleted, found new finalizers "
        causes.append(Cause("FieldValueForbidden", f"Forbidden: {why}[]string{{{found}}}", "metadata.finalizers"))
    kept = {key: new[key] for key in _CLIENTS if new.get(key)}
    kept |= {key: old[key] for key in (*_SERVERS, "name", "namespace", "resourceVersion") if key in old}
    return kept, causes


def problems(metadata: Metadata) -> list[Cause]:
    """Judge what clients may set."""
    return [*_name_problems(metadata.get("name") or ""), *_map_problems(metadata), *_finalizer_problems(metadata)]


def _name_problems(name: str) -> Iterator[Cause]:
    if not name:
        yield Cause("FieldValueRequired", "Required value: name or generateName is required", "metadata.name")
    elif len(name) > _LONGEST_NAME:
        rule = f"Invalid value: {quoted(name)}: must be no more than {_LONGEST_NAME} characters"
        yield Cause("FieldValueInvalid", rule, "metadata.name")
    elif not NAME.fullmatch(name):
        yield Cause("FieldValueInvalid", f"Invalid value: {quoted(name)}: {_NAME_RULE}", "metadata.name")


def _map_problems(metadata: Metadata) -> Iterator[Cause]:
    for key, value in (metadata.get("labels") or {}).items():
        yield from _qualified_name_problems(key, "metadata.labels")
        if not _LABEL_VALUE.fullmatch(value):
            yield Cause("FieldValueInvalid", f"Invalid value: {quoted(value)}: {_LABEL_VALUE_RULE}", "metadata.labels")
        elif len(value) > _LONGEST_PART:
            rule = f"Invalid value: {quoted(value)}: must be no more than {_LONGEST_PART} bytes"
            yield Cause("FieldValueInvalid", rule, "metadata.labels")
    annotations = metadata.get("annotations") or {}
    for key in annotations:
        yield from _qualified_name_problems(key.lower(), "metadata.annotations")
    size = sum(len(key.encode()) + len(value.encode()) for key, value in annotations.items())
    if size > _ANNOTATION_BYTES:
        rule = f"Too long: may not be more than {_ANNOTATION_BYTES} bytes"
        yield Cause("FieldValueTooLong", rule, "metadata.annotations")


def _finalizer_problems(metadata: Metadata) -> Iterator[Cause]:
    for finalizer in metadata.get("finalizers") or ():
        yield from _qualified_name_problems(finalizer, "metadata.finalizers")


def _qualified_name_problems(key: str, field: str) -> Iterator[Cause]:
    prefix, slash, name = key.rpartition("/")
    if slash and not NAME.fullmatch(prefix):
        yield Cause("FieldValueInvalid", f"Invalid value: {quoted(key)}: prefix part {_NAME_RULE}", field)
    if not _QUALIFIED.fullmatch(name):
        yield Cause("FieldValueInvalid", f"Invalid value: {quoted(key)}: {_QUALIFIED_RULE}", field)
    elif len(name) > _LONGEST_PART:
        rule = f"Invalid value: {quoted(key)}: name part must be no more than {_LONGEST_PART} bytes"
        yield Cause("FieldValueInvalid", rule, field)
