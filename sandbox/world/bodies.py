"""
What a client sends, before it becomes an object: read as the server reads it, checked for what it names, and cut down
to what this way in may change.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from sandbox.world import metadata as meta
from sandbox.world.history import Stored, encode
from sandbox.world.kinds import Kind, Version
from sandbox.world.status import Cause, StatusError, bad_request, conflict, invalid, not_served, quoted

STATUS: Final = "status"
_LARGEST_EXACT_FLOAT: Final = 1e21

Body = Mapping[str, Any]


def plain(body: Body) -> Any:
    """Return the body as it is after a journey over the wire: only JSON, nothing shared with the caller."""
    return msgspec.json.decode(msgspec.json.encode(body))


def kept(value: Any) -> Any:
    """
    Write numbers as kube-apiserver keeps them: 5.0 as 5, and what exceeds 64 bits as a float.

    Until it is kept, 5.0 is another value than 5 there: to write 5.0 over 5 in a spec raises the generation.
    """
    if isinstance(value, str):  # as most are
        return value
    if isinstance(value, dict):
        return {key: kept(item) for key, item in value.items()}
    match value:
        case list():
            return [kept(item) for item in value]
        case float() if value.is_integer() and abs(value) < _LARGEST_EXACT_FLOAT:
            return int(value)
        case int() if not isinstance(value, bool) and not -(2**63) <= value < 2**63:
            return float(value)
        case _:
            return value


def plain_object(body: Body) -> dict[str, Any]:
    """As `plain`, for what must be an object. Raises StatusError 400."""
    copy = plain(body)
    if not isinstance(copy, dict):
        raise bad_request("the object provided is unrecognized: it is not a JSON object")
    return copy


def check_type(kind: Kind, version: Version, body: Body) -> None:
    """Check that a body is of the kind and version that it is sent to. Raises StatusError 400 or 422."""
    wanted = kind.api_version(version.name)
    name = (body.get("metadata") or {}).get("name") or ""
    if not body.get("kind") or not body.get("apiVersion"):
        missing = "Kind" if not body.get("kind") else "apiVersion"
        raise bad_request(
            f"the object provided is unrecognized (must be of type {kind.kind}): Object '{missing}' is missing"
        )
    if body["apiVersion"] != wanted:
        raise bad_request(
            f"the API version in the data ({body['apiVersion']}) does not match the expected API version ({wanted})"
        )
    if body["kind"] != kind.kind:
        cause = Cause("FieldValueInvalid", f"Invalid value: {quoted(body['kind'])}: must be {kind.kind}", "kind")
        raise invalid(str(body["kind"]), kind.group, name, [cause])


def namespace_of(kind: Kind, metadata: Body, namespace: str | None) -> str:
    """Return the namespace of a new object, "" where the kind has none. Raises StatusError 400 or 404."""
    if not kind.namespaced:
        return ""
    if not namespace:
        raise not_served()
    if metadata.get("namespace") not in {None, "", namespace}:
        raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
    return namespace


def check_identity(kind: Kind, version: Version, old: Stored, new: Body, metadata: Body) -> None:
    """Check that a changed object is still the same one. Raises StatusError 400 or 422."""
    name = metadata.get("name")
    if not name:
        raise bad_request(f"the name of the object ({old.name} based on URL) was undeterminable: name must be provided")
    if name != old.name:
        raise bad_request(f"the name of the object ({name}) does not match the name on the URL ({old.name})")
    if kind.namespaced and metadata.get("namespace") != old.namespace:
        raise bad_request(
            f"the namespace of the object ({metadata.get('namespace')}) does not match the namespace on the URL "
            f"({old.namespace})"
        )
    for field, wanted in (("kind", kind.kind), ("apiVersion", kind.api_version(version.name))):
        if new.get(field) != wanted:
            rule = f"Invalid value: {quoted(new.get(field))}: must be {wanted}"
            raise invalid(str(new.get("kind")), kind.group, old.name, [Cause("FieldValueInvalid", rule, field)])


def check_delete(kind: Kind, old: Stored, uid: str, resource_version: str) -> None:
    """Check the preconditions of a deletion. Raises StatusError 409."""
    actual = old.body["metadata"]["uid"]
    if uid and uid != actual:
        why = (
            f"the UID in the precondition ({uid}) does not match the UID in record ({actual}). The object might "
            "have been deleted and then recreated"
        )
        raise conflict(kind.kind, kind.group, old.name, why)
    if resource_version and resource_version != str(old.resource_version):
        why = (
            f"the ResourceVersion in the precondition ({resource_version}) does not match the ResourceVersion in "
            f"record ({old.resource_version}). The object might have been modified"
        )
        raise conflict(kind.kind, kind.group, old.name, why)


def check_number(resource_version: str) -> None:
    """Check that a resourceVersion is a number. Raises StatusError 500, as the server does."""
    if not resource_version.isdecimal():
        raise StatusError(500, "", f"strconv.ParseUint: parsing {quoted(resource_version)}: invalid syntax")


def permitted(
    kind: Kind, version: Version, old: Stored, new: Body, metadata: Body, subresource: str
) -> tuple[dict[str, Any], list[Cause]]:
    """Return the new object with only those changes that this way in may make, and what is wrong with them."""
    was: Body = old.body
    if subresource == STATUS:
        changed, causes = (
            meta.updated(was["metadata"], metadata) if kind.status_takes_metadata else (was["metadata"], [])
        )
        rest = {key: value for key, value in was.items() if key not in {STATUS, "metadata"}}
        status = {STATUS: new[STATUS]} if STATUS in new else {}
        return {**rest, "metadata": changed, **status}, causes
    changed, causes = meta.updated(was["metadata"], metadata)
    causes += meta.problems(changed)
    whole = {**new, "metadata": changed}
    if version.has_status:
        whole.pop(STATUS, None)
        if STATUS in was:
            whole[STATUS] = was[STATUS]
    causes += [
        Cause("FieldValueInvalid", f"Invalid value: {quoted(whole.get(field))}: field is immutable", field)
        for field in kind.immutable
        if whole.get(field) != was.get(field)
    ]
    return whole, causes


def generation_matters(old: Body, new: Body, version: Version) -> bool:
    """Tell whether a change is one that the generation counts."""
    ignored = {"metadata", STATUS} if version.has_status else {"metadata"}

    def rest(body: Body) -> Iterator[tuple[str, Any]]:
        return ((key, body[key]) for key in sorted(body) if key not in ignored)

    return encode(dict(rest(old))) != encode(dict(rest(new)))
