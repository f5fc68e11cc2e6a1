"""
Structural schemas of custom resources: what is kept, what is filled in, and what is refused.

Two walks over a value and its schema. `normalise` is what happens before anybody looks: unknown fields go, nulls that
the schema does not allow go, defaults come. `problems` then judges what is left. CEL rules are not evaluated here:
they are tested where they run, in kube-apiserver.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from datetime import datetime
from functools import cache
from typing import Any, Final

from sandbox.world.status import Cause, quoted

Schema = Mapping[str, Any]
EMBEDDED: Final = ("apiVersion", "kind", "metadata")
"""Fields of every object, which the schema of a kind does not govern."""

_DATE_TIME: Final = re.compile(r"\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}(\.\d+)?([Zz]|[+-]\d{2}:\d{2})")


def normalise_object(body: Mapping[str, Any], schema: Schema) -> dict[str, Any]:
    """Normalise a whole object; what every object has stays as it is."""
    kept = {key: body[key] for key in EMBEDDED if key in body}
    rest = {key: value for key, value in body.items() if key not in EMBEDDED}
    return {**kept, **_normalise_mapping(rest, schema)}


def object_problems(body: Mapping[str, Any], schema: Schema) -> list[Cause]:
    """Judge a whole object."""
    return list(_problems({key: value for key, value in body.items() if key not in EMBEDDED}, schema, ""))


def normalise(value: Any, schema: Schema) -> Any:
    """Return the value without what the schema does not know, and with its defaults. Shares what is unchanged."""
    if isinstance(value, dict):
        return _normalise_mapping(value, schema)
    if isinstance(value, list) and isinstance(items := schema.get("items"), Mapping):
        return [normalise(item, items) for item in value]
    return value


def _normalise_mapping(value: Mapping[str, Any], schema: Schema) -> dict[str, Any]:
    properties: Mapping[str, Schema] = schema.get("properties") or {}
    additional = schema.get("additionalProperties")
    keeps_unknown = bool(schema.get("x-kubernetes-preserve-unknown-fields")) or additional is True
    normal: dict[str, Any] = {}
    for key, item in value.items():
        known = properties.get(key)
        if known is None and isinstance(additional, Mapping):
            known = additional
        if known is None:
            if keeps_unknown:
                normal[key] = item
            continue
        if item is None and not _may_be_null(known):
            continue
        normal[key] = normalise(item, known)
    for key, known in properties.items():
        if key not in normal and "default" in known:
            normal[key] = normalise(deepcopy(known["default"]), known)
    return normal


def _may_be_null(schema: Schema) -> bool:
    # A schema without a type (preserved as it is) says nothing about null.
    typed = "type" in schema or schema.get("x-kubernetes-int-or-string")
    return bool(schema.get("nullable")) or not typed


def _problems(value: Any, schema: Schema, path: str) -> Iterator[Cause]:
    if value is None and _may_be_null(schema):
        return
    wanted = _wanted_types(schema)
    given = _type_of(value)
    if wanted and not _fits(given, wanted):
        names = ",".join(wanted)
        yield Cause(
            "FieldValueTypeInvalid",
            f"Invalid value: {quoted(given)}: {_in_body(path)} must be of type {names}: {quoted(given)}",
            path or "<nil>",
        )
        return
    yield from _enumeration_problems(value, schema, path)
    if isinstance(value, dict):
        yield from _object_problems(value, schema, path)
    elif isinstance(value, list):
        yield from _array_problems(value, schema, path)
    elif isinstance(value, str):
        yield from _string_problems(value, schema, path)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield from _number_problems(value, schema, path)
    yield from _combination_problems(value, schema, path)


def _wanted_types(schema: Schema) -> tuple[str, ...]:
    if schema.get("x-kubernetes-int-or-string"):
        return ("integer", "string")
    return (schema["type"],) if "type" in schema else ()


def _type_of(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "integer" if value.is_integer() else "number"
        case str():
            return "string"
        case list():
            return "array"
        case _:
            return "object"


def _fits(given: str, wanted: tuple[str, ...]) -> bool:
    return given in wanted or (given == "integer" and "number" in wanted)


def _in_body(path: str) -> str:
    return f"{path} in body"


def _wrong(path: str, value: Any, rule: str) -> Cause:
    return Cause("FieldValueInvalid", f"Invalid value: {quoted(value)}: {_in_body(path)} {rule}", path)


def _enumeration_problems(value: Any, schema: Schema, path: str) -> Iterator[Cause]:
    if "enum" in schema and value not in schema["enum"]:
        allowed = ", ".join(quoted(item) for item in schema["enum"])
        yield Cause("FieldValueNotSupported", f"Unsupported value: {quoted(value)}: supported values: {allowed}", path)


def _object_problems(value: Mapping[str, Any], schema: Schema, path: str) -> Iterator[Cause]:
    properties: Mapping[str, Schema] = schema.get("properties") or {}
    additional = schema.get("additionalProperties")
    for key in schema.get("required") or ():
        if key not in value:
            yield Cause("FieldValueRequired", "Required value", _below(path, key))
    if "maxProperties" in schema and len(value) > schema["maxProperties"]:
        yield _too_many(path, len(value), schema["maxProperties"])
    if "minProperties" in schema and len(value) < schema["minProperties"]:
        yield _wrong(path, len(value), f"should have at least {schema['minProperties']} properties")
    for key in sorted(value):
        known = properties.get(key, additional)
        if isinstance(known, Mapping):
            yield from _problems(value[key], known, _below(path, key))


def _below(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _too_many(path: str, count: int, limit: int) -> Cause:
    return Cause("FieldValueTooMany", f"Too many: {count}: must have at most {limit} items", path)


def _array_problems(value: list[Any], schema: Schema, path: str) -> Iterator[Cause]:
    if "maxItems" in schema and len(value) > schema["maxItems"]:
        yield _too_many(path, len(value), schema["maxItems"])
    if "minItems" in schema and len(value) < schema["minItems"]:
        yield _wrong(path, len(value), f"should have at least {schema['minItems']} items")
    if isinstance(items := schema.get("items"), Mapping):
        for index, item in enumerate(value):
            yield from _problems(item, items, f"{path}[{index}]")
    yield from _duplicates(value, schema, path)


def _duplicates(value: list[Any], schema: Schema, path: str) -> Iterator[Cause]:
    keys: list[Any]
    match schema.get("x-kubernetes-list-type"):
        case "set":
            keys = value
        case "map":
            names = schema.get("x-kubernetes-list-map-keys") or ()
            keys = [{name: item[name] for name in names if name in item} for item in value if isinstance(item, dict)]
        case _:
            return
    for index, key in enumerate(keys):
        if key in keys[:index]:
            yield Cause("FieldValueDuplicate", f"Duplicate value: {quoted(key)}", f"{path}[{index}]")


def _string_problems(value: str, schema: Schema, path: str) -> Iterator[Cause]:
    if "maxLength" in schema and len(value) > schema["maxLength"]:
        yield Cause("FieldValueTooLong", f"Too long: may not be more than {schema['maxLength']} bytes", path)
        return
    if "minLength" in schema and len(value) < schema["minLength"]:
        yield _wrong(path, value, f"should be at least {schema['minLength']} chars long")
    if "pattern" in schema and not _pattern(schema["pattern"]).search(value):
        yield _wrong(path, value, f"should match '{schema['pattern']}'")
    if schema.get("format") == "date-time" and not _is_date_time(value):
        rule = f"Invalid value: {quoted(value)}: {_in_body(path)} must be of type date-time: {quoted(value)}"
        yield Cause("FieldValueTypeInvalid", rule, path)


@cache
def _pattern(pattern: str) -> re.Pattern[str]:
    # Go's $ is the end of the text, Python's also stands before a last line feed.
    return re.compile(pattern[:-1] + r"\Z" if pattern.endswith("$") and not pattern.endswith(r"\$") else pattern)


def _is_date_time(value: str) -> bool:
    if not _DATE_TIME.fullmatch(value):
        return False
    try:
        datetime.fromisoformat(value[:19].upper())
    except ValueError:
        return False
    return True


def _number_problems(value: float, schema: Schema, path: str) -> Iterator[Cause]:
    if "minimum" in schema:
        low = schema["minimum"]
        if schema.get("exclusiveMinimum") and value <= low:
            yield _wrong(path, value, f"should be greater than {low}")
        elif value < low:
            yield _wrong(path, value, f"should be greater than or equal to {low}")
    if "maximum" in schema:
        high = schema["maximum"]
        if schema.get("exclusiveMaximum") and value >= high:
            yield _wrong(path, value, f"should be less than {high}")
        elif value > high:
            yield _wrong(path, value, f"should be less than or equal to {high}")
    if "multipleOf" in schema and not math.isclose(math.remainder(value, schema["multipleOf"]), 0, abs_tol=1e-9):
        yield _wrong(path, value, f"should be a multiple of {schema['multipleOf']}")


def _combination_problems(value: Any, schema: Schema, path: str) -> Iterator[Cause]:
    def holds(part: Schema) -> bool:
        return not any(True for _ in _problems(value, part, path))

    for part in schema.get("allOf") or ():
        yield from _problems(value, part, path)
    if "anyOf" in schema and not any(holds(part) for part in schema["anyOf"]):
        yield _wrong(path, value, "must validate at least one schema (anyOf)")
    if "oneOf" in schema and sum(holds(part) for part in schema["oneOf"]) != 1:
        yield _wrong(path, value, "must validate one and only one schema (oneOf)")
    if "not" in schema and holds(schema["not"]):
        yield _wrong(path, value, "must not validate the schema (not)")
