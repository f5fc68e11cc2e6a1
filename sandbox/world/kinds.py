"""
What a kind is, as data; and how a CustomResourceDefinition becomes one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from common.kube.api import Resource
from sandbox.world.schema import Schema
from sandbox.world.status import Cause
from sandbox.world.tables import AGE, Column, columns_of

NAMESPACES: Final = Resource("", "v1", "namespaces", "Namespace")
CRDS: Final = Resource("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition")

Body = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a kind."""

    name: str
    schema: Schema | None = None
    """None for a built-in kind: anything goes."""
    has_status: bool = False
    """Whether status is a subresource."""
    served: bool = True
    columns: tuple[Column, ...] = (AGE,)
    """What a table shows of its objects, beside the name."""


def _as_it_is(body: Body, _now: str) -> dict[str, Any]:
    return dict(body)


def _no_problems(_body: Body) -> list[Cause]:
    return []


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind, in all its versions; objects are kept in the storage version."""

    group: str
    plural: str
    kind: str
    singular: str
    list_kind: str
    namespaced: bool
    versions: tuple[Version, ...]
    storage: str
    short_names: tuple[str, ...] = ()
    custom: bool = False
    has_generation: bool = False
    begin: Callable[[Body, str], dict[str, Any]] = _as_it_is
    """What a new object of a built-in kind gets; takes the time."""
    problems: Callable[[Body], list[Cause]] = _no_problems
    immutable: tuple[str, ...] = ()
    """Top-level fields that never change."""
    status_takes_metadata: bool = False
    """Whether a write to the status subresource may change labels and annotations too."""

    def version(self, name: str) -> Version | None:
        """Find a served version."""
        return next((version for version in self.versions if version.name == name and version.served), None)

    def api_version(self, version: str) -> str:
        """Write group and version as objects have them."""
        return f"{self.group}/{version}" if self.group else version


def kind_of(definition: Body) -> Kind:
    """Read a (valid) CustomResourceDefinition."""
    spec = definition["spec"]
    names = spec["names"]
    versions = tuple(
        Version(
            name=version["name"],
            schema=version["schema"]["openAPIV3Schema"],
            has_status="status" in (version.get("subresources") or {}),
            served=bool(version.get("served")),
            columns=columns_of(version),
        )
        for version in sorted(spec["versions"], key=lambda version: _priority(version["name"]), reverse=True)
    )
    return Kind(
        group=spec["group"],
        plural=names["plural"],
        kind=names["kind"],
        singular=names.get("singular") or names["kind"].lower(),
        list_kind=names.get("listKind") or f"{names['kind']}List",
        namespaced=spec["scope"] == "Namespaced",
        versions=versions,
        storage=next(version["name"] for version in spec["versions"] if version.get("storage")),
        short_names=tuple(names.get("shortNames") or ()),
        custom=True,
        has_generation=True,
    )


def by_priority(versions: Iterable[str]) -> tuple[str, ...]:
    """Order versions as Kubernetes prefers them: v2, v1, v1beta2, v1beta1, v1alpha1, then the rest by name."""
    return tuple(sorted(sorted(versions), key=_priority, reverse=True))


_VERSION: Final = re.compile(r"v(\d+)(?:(alpha|beta)(\d+))?")


def _priority(version: str) -> tuple[int, int, int]:
    match = _VERSION.fullmatch(version)
    if match is None:
        return (-1, 0, 0)
    return ({"alpha": 0, "beta": 1, None: 2}[match[2]], int(match[1]), int(match[3] or 0))
