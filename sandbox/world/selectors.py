"""
Label and field selectors in the form that they have in a query: "tier=hot,!cordoned", "metadata.name=pool-1".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

from sandbox.world.status import bad_request

Labels = Mapping[str, str]
LabelTest = Callable[[Labels], bool]
FieldTest = Callable[[str, str], bool]
"""Takes name and namespace."""

_KEY: Final = r"[A-Za-z0-9]([-A-Za-z0-9_./]*[A-Za-z0-9])?"
_VALUE: Final = r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?"
_FORMS: Final = (
    ("in", re.compile(rf"(?P<key>{_KEY})\s+in\s*\((?P<values>[^()]*)\)")),
    ("notin", re.compile(rf"(?P<key>{_KEY})\s+notin\s*\((?P<values>[^()]*)\)")),
    ("absent", re.compile(rf"!\s*(?P<key>{_KEY})")),
    ("unequal", re.compile(rf"(?P<key>{_KEY})\s*!=\s*(?P<values>{_VALUE})")),
    ("equal", re.compile(rf"(?P<key>{_KEY})\s*==?\s*(?P<values>{_VALUE})")),
    ("present", re.compile(rf"(?P<key>{_KEY})")),
)
_FIELD: Final = re.compile(r"(?P<field>[A-Za-z.]+)(?P<operator>!=|==?)(?P<value>.*)")
_COMMA_OUTSIDE_PARENTHESES: Final = re.compile(r",(?![^(]*\))")


def label_test(selector: str) -> LabelTest:
    """Understand a label selector; an empty one admits everything. Raises StatusError 400."""
    tests = [_requirement(part.strip()) for part in _COMMA_OUTSIDE_PARENTHESES.split(selector)] if selector else []
    return lambda labels: all(test(labels) for test in tests)


def _requirement(text: str) -> LabelTest:
    for form, pattern in _FORMS:
        if match := pattern.fullmatch(text):
            values = frozenset(value.strip() for value in (match.groupdict().get("values") or "").split(","))
            return _test(form, match["key"], values)
    raise bad_request(f"unable to parse requirement: {text!r} is none")


def _test(form: str, key: str, values: frozenset[str]) -> LabelTest:
    match form:
        case "in" | "equal":
            return lambda labels: key in labels and labels[key] in values
        case "notin" | "unequal":
            return lambda labels: key not in labels or labels[key] not in values
        case "absent":
            return lambda labels: key not in labels
        case _:
            return lambda labels: key in labels


def field_test(selector: str) -> FieldTest:
    """Understand a field selector over metadata.name and metadata.namespace. Raises StatusError 400 for any other."""
    tests = [_field_requirement(part) for part in selector.split(",") if part] if selector else []
    return lambda name, namespace: all(test(name, namespace) for test in tests)


def _field_requirement(text: str) -> FieldTest:
    match = _FIELD.fullmatch(text.strip())
    if match is None:
        raise bad_request(f"invalid selector: {text!r}; can't understand {text!r}")
    field, value, wanted = match["field"], match["value"], match["operator"] != "!="
    match field:
        case "metadata.name":
            return lambda name, _namespace: (name == value) is wanted
        case "metadata.namespace":
            return lambda _name, namespace: (namespace == value) is wanted
        case _:
            raise bad_request(f"field label not supported: {field}")
