"""
What an API server tells of itself: groups, versions, resources, and the OpenAPI v3 documents of custom resources.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sandbox.world.kinds import Kind, Version
from sandbox.world.store import Store

GIT_VERSION: Final = "v1.34.2"
_VERBS: Final = ("create", "delete", "get", "list", "patch", "update", "watch")
_STATUS_VERBS: Final = ("get", "patch", "update")

Document = dict[str, Any]


def version() -> Document:
    """/version."""
    major, minor, _ = GIT_VERSION.removeprefix("v").split(".")
    return {"major": major, "minor": minor, "gitVersion": GIT_VERSION, "platform": "couchestor/sandbox"}


def core_versions(store: Store) -> Document:
    """/api."""
    return {"kind": "APIVersions", "versions": list(store.served_versions(""))}


def groups(store: Store) -> Document:
    """/apis."""
    names = sorted({kind.group for kind in store.kinds if kind.group})
    found = [described for name in names if (described := _group(store, name))]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": found}


def group(store: Store, name: str) -> Document | None:
    """/apis/<group>."""
    described = _group(store, name)
    return {"kind": "APIGroup", "apiVersion": "v1", **described} if described else None


def _group(store: Store, name: str) -> Document | None:
    versions = [{"groupVersion": f"{name}/{served}", "version": served} for served in store.served_versions(name)]
    return {"name": name, "versions": versions, "preferredVersion": versions[0]} if versions else None


def resources(store: Store, group_name: str, version_name: str) -> Document | None:
    """/api/<version> and /apis/<group>/<version>."""
    listed: list[Document] = []
    for kind, served in _served(store, group_name, version_name):
        listed.append(
            {
                "name": kind.plural,
                "singularName": kind.singular,
                "namespaced": kind.namespaced,
                "kind": kind.kind,
                "verbs": list(_VERBS),
                **({"shortNames": list(kind.short_names)} if kind.short_names else {}),
            }
        )
        if served.has_status:
            listed.append(
                {
                    "name": f"{kind.plural}/status",
                    "singularName": "",
                    "namespaced": kind.namespaced,
                    "kind": kind.kind,
                    "verbs": list(_STATUS_VERBS),
                }
            )
    whole = f"{group_name}/{version_name}" if group_name else version_name
    return (
        {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": whole, "resources": listed} if listed else None
    )


def openapi_index(store: Store) -> Document:
    """/openapi/v3."""
    homes = sorted(
        {f"apis/{kind.group}/{served.name}" for kind in store.kinds for served in kind.versions if served.schema}
    )
    return {"paths": {home: {"serverRelativeURL": f"/openapi/v3/{home}"} for home in homes}}


def openapi(store: Store, group_name: str, version_name: str) -> Document | None:
    """/openapi/v3/apis/<group>/<version>; the paths are left out, the schemas are what is asked for."""
    schemas: Document = {}
    for kind, served in _served(store, group_name, version_name):
        if served.schema is not None:
            schemas[_schema_name(kind, served)] = kind_schema(kind, served)
    if not schemas:
        return None
    return {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes CRD Swagger", "version": "v0.1.0"},
        "paths": {},
        "components": {"schemas": schemas},
    }


def kind_schema(kind: Kind, served: Version) -> Document:
    """Return the schema of a custom kind as it is published: with what every object has."""
    schema: Mapping[str, Any] = served.schema or {}
    common: Document = {
        "apiVersion": {"type": "string"},
        "kind": {"type": "string"},
        "metadata": {"allOf": [{"$ref": "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}]},
    }
    identity = {"group": kind.group, "version": served.name, "kind": kind.kind}
    return {
        **schema,
        "properties": {**common, **(schema.get("properties") or {})},
        "x-kubernetes-group-version-kind": [identity],
    }


def _served(store: Store, group_name: str, version_name: str) -> list[tuple[Kind, Version]]:
    return [
        (kind, served)
        for kind in store.kinds
        if kind.group == group_name and (served := kind.version(version_name)) is not None
    ]


def _schema_name(kind: Kind, served: Version) -> str:
    return ".".join((*reversed(kind.group.split(".")), served.name, kind.kind))
