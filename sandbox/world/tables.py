"""
Objects as rows, as `kubectl get` asks for them: the columns that a kind names, and what each object has there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import msgspec

AGE_PATH: Final = ".metadata.creationTimestamp"
_STEP: Final = re.compile(r"\.([\w-]+)|\[(\d+|\*)\]")
_UNITS: Final = (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1))
_ROUGH: Final = ((120, "s", ""), (600, "m", "s"), (10_800, "m", ""), (28_800, "h", "m"), (172_800, "h", ""))
"""Below so many seconds: the unit to tell, and a smaller one beside it, if any."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column. `path` is of the simple kind: names, and places in lists."""

    name: str
    path: str
    type: str = "string"
    priority: int = 0
    """Above 0: only in wide output."""
    description: str = ""


AGE: Final = Column("Age", AGE_PATH, "date")


def columns_of(version: Mapping[str, Any]) -> tuple[Column, ...]:
    """Read the columns of one version of a CustomResourceDefinition; without any, there is the age."""
    told = tuple(
        Column(
            name=each["name"],
            path=each["jsonPath"],
            type=each.get("type", "string"),
            priority=each.get("priority", 0),
            description=each.get("description", ""),
        )
        for each in version.get("additionalPrinterColumns") or ()
    )
    return told or (AGE,)


def table(
    columns: Iterable[Column], objects: Iterable[bytes], now: datetime, metadata: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Make the Table of objects that are given as JSON; `metadata` is the list's own."""
    columns = tuple(columns)
    rows = []
    for raw in objects:
        body = msgspec.json.decode(raw)
        cells = [body["metadata"].get("name"), *(_cell(column, body, now) for column in columns)]
        partial = {
            "kind": "PartialObjectMetadata",
            "apiVersion": "meta.k8s.io/v1",
            "metadata": body["metadata"],
        }
        rows.append({"cells": cells, "object": partial})
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": dict(metadata or {}),
        "columnDefinitions": [_definition(Column("Name", ".metadata.name"), "name"), *map(_definition, columns)],
        "rows": rows,
    }


def _definition(column: Column, format_: str = "") -> dict[str, Any]:
    return {
        "name": column.name,
        "type": column.type,
        "format": format_,
        "description": column.description,
        "priority": column.priority,
    }


def _cell(column: Column, body: Mapping[str, Any], now: datetime) -> Any:
    found = value_at(body, column.path)
    if found is None or column.type != "date":
        return found
    try:
        then = datetime.fromisoformat(str(found).replace("Z", "+00:00"))
    except ValueError:
        return "<invalid>"
    return roughly((now - then).total_seconds())


def value_at(body: Any, path: str) -> Any:
    """The first value at a path; None if there is none."""
    for name, place in _STEP.findall(path):
        if name:
            body = body.get(name) if isinstance(body, Mapping) else None
        elif not isinstance(body, list):
            return None
        else:
            index = 0 if place == "*" else int(place)
            body = body[index] if index < len(body) else None
    return body


def roughly(seconds: float) -> str:
    """Tell a duration as kubectl does: the longer, the rougher."""
    whole = max(0, int(seconds))
    unit, beside = next(((unit, beside) for below, unit, beside in _ROUGH if whole < below), ("d", ""))
    size, smaller = dict(_UNITS)[unit], dict(_UNITS).get(beside, 0)
    rest = whole % size // smaller if smaller else 0
    return f"{whole // size}{unit}" + (f"{rest}{beside}" if rest else "")
