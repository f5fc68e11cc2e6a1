"""
The objects of a Kubernetes cluster in memory, with the manners of kube-apiserver.

Everything is synchronous and deterministic: time and randomness are handed in, nothing waits. What differs between
the ways in (HTTP, or a direct call in the simulation) is none of its business; both translate and call this. Namespaces
need not exist: an object may be created in any.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml

from common.kube.api import EventType, Resource
from sandbox.world import metadata as meta
from sandbox.world import schema as schemas
from sandbox.world.bodies import (
    STATUS,
    Body,
    check_delete,
    check_identity,
    check_number,
    check_type,
    generation_matters,
    kept,
    namespace_of,
    permitted,
    plain,
    plain_object,
)
from sandbox.world.built_in import BUILT_IN
from sandbox.world.history import Change, History, Stored, encode, stored_at
from sandbox.world.kinds import CRDS, NAMESPACES, Kind, Version, by_priority, kind_of
from sandbox.world.listing import Listing, parse_token, selection, token
from sandbox.world.merge import merge
from sandbox.world.status import (
    Cause,
    StatusError,
    already_exists,
    conflict,
    expired,
    invalid,
    not_found,
    not_served,
    quoted,
)
from sandbox.world.watch import Watch

FIRST_RESOURCE_VERSION: Final = 100
"""What a cluster has seen before anybody comes; a watch from 1 is too old here as it is there."""
WATCH_WINDOW: Final = 1000
OWN_NAMESPACES: Final = ("default", "kube-system")
_MODIFIED: Final = "the object has been modified; please apply your changes to the latest version and try again"


@dataclass(slots=True)
class _Table:
    """One kind with its objects and their history."""

    kind: Kind
    objects: dict[str, Stored]
    history: History


class Store:
    """All objects of one cluster. Every refusal is a StatusError."""

    def __init__(
        self,
        *,
        now: Callable[[], datetime],
        rng: random.Random,
        crds: Iterable[Path] = (),
        window: int = WATCH_WINDOW,
    ) -> None:
        """
        Begin empty, serving the built-in kinds and those that the definitions in `crds` (files or folders) add.

        `window` is how many changes of each kind a watch or a paged list can be behind before it is told 410.
        """
        self.now = now
        self._rng = rng
        self._window = window
        self._version = FIRST_RESOURCE_VERSION
        self._tables: dict[tuple[str, str], _Table] = {}
        for kind in BUILT_IN:
            self._serve(kind)
        for name in OWN_NAMESPACES:
            self.create(NAMESPACES, {"apiVersion": "v1", "kind": NAMESPACES.kind, "metadata": {"name": name}})
        self.install_crds(crds)

    # -- what is served

    @property
    def resource_version(self) -> int:
        """The resourceVersion of the last change of anything."""
        return self._version

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """Everything that is served."""
        return tuple(table.kind for table in self._tables.values())

    def find_kind(self, group: str, version: str, plural: str) -> Kind | None:
        """Find a kind by where it is served."""
        table = self._tables.get((group, plural))
        return table.kind if table is not None and table.kind.version(version) else None

    def served_versions(self, group: str) -> tuple[str, ...]:
        """Name the served versions of a group, the preferred one first; empty if the group is not served."""
        kinds = (kind for kind in self.kinds if kind.group == group)
        return by_priority({version.name for kind in kinds for version in kind.versions if version.served})

    def install_crds(self, paths: Iterable[Path]) -> None:
        """Create, or bring up to date, the definitions in YAML files, or in folders of them."""
        for path in paths:
            for file in sorted(path.glob("*.yaml")) if path.is_dir() else [path]:
                for document in yaml.safe_load_all(file.read_text()):
                    if isinstance(document, dict) and document.get("kind") == CRDS.kind:
                        self._install(document)

    def _install(self, definition: dict[str, Any]) -> None:
        name = definition["metadata"]["name"]
        if name in {stored.name for stored in self._tables[CRDS.group, CRDS.plural].objects.values()}:
            self.patch(CRDS, name, {"spec": definition["spec"]})
        else:
            self.create(CRDS, definition)

    def _serve(self, kind: Kind) -> None:
        key = (kind.group, kind.plural)
        if key in self._tables:
            self._tables[key].kind = kind
        else:
            self._tables[key] = _Table(kind, {}, History(self._window, self._version))

    # -- reading

    def get(self, resource: Resource, name: str, namespace: str | None = None, *, subresource: str = "") -> bytes:
        """Read one object, as JSON; through its status subresource too, that is the whole object."""
        table, version = self._table(resource)
        return self._find(table, name, namespace, subresource).raw_as(table.kind.api_version(version.name))

    def list_page(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        limit: int = 0,
        continue_token: str = "",
        label_selector: str = "",
        field_selector: str = "",
    ) -> Listing:
        """Read one page of a list in the order of namespace/name; limit 0 reads all, namespace None all namespaces."""
        table, version = self._table(resource)
        admits = selection(namespace, label_selector, field_selector)
        after, at = parse_token(continue_token) if continue_token else ("", self._version)
        try:
            objects = table.objects if at == self._version else table.history.undone(table.objects, at)
        except StatusError as error:
            raise expired(
                "The provided continue parameter is too old to display a consistent list result. You can start a new "
                "list without the continue parameter."
            ) from error
        found = [objects[key] for key in sorted(objects) if key > after and admits(objects[key])]
        page = found[:limit] if limit > 0 else found
        left = len(found) - len(page)
        api_version = table.kind.api_version(version.name)
        return Listing(
            kind=table.kind,
            api_version=api_version,
            items=tuple(stored.raw_as(api_version) for stored in page),
            resource_version=at,
            continue_token=token(page[-1].key, at) if left else "",
            remaining=left if left and not label_selector and not field_selector else None,
        )

    def watch(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        resource_version: str = "",
        label_selector: str = "",
        field_selector: str = "",
    ) -> Watch:
        """
        Begin to watch after a resourceVersion; from "" or "0", everything there is comes first, as ADDED.

        One that is too old is told so by the watch, as a server does, and not here.
        """
        table, version = self._table(resource)
        admits = selection(namespace, label_selector, field_selector)
        present: tuple[Stored, ...] = ()
        if resource_version in {"", "0"}:
            since = self._version
            present = tuple(table.objects[key] for key in sorted(table.objects) if admits(table.objects[key]))
        elif resource_version.isdecimal():
            since = int(resource_version)
        else:
            why = f"strconv.ParseUint: parsing {quoted(resource_version)}: invalid syntax"
            raise StatusError(500, "", f"resourceVersion: Invalid value: {quoted(resource_version)}: {why}")
        api_version = table.kind.api_version(version.name)
        return Watch(table.history, lambda: self._version, since, admits, api_version, table.kind.kind, present)

    def forget(self, resource: Resource) -> None:
        """Forget the history of a kind: watches and continue tokens from before now are told 410."""
        table, _ = self._table(resource)
        table.history.forget(self._version)

    # -- writing

    def create(self, resource: Resource, body: Body, namespace: str | None = None, *, dry_run: bool = False) -> bytes:
        """Create an object and return it, as JSON."""
        table, version = self._table(resource)
        kind = table.kind
        given = plain_object(body)
        check_type(kind, version, given)
        metadata = meta.checked_shape(given)
        namespace = namespace_of(kind, metadata, namespace)
        name = metadata.get("name") or ""
        fresh = meta.created(
            {**metadata, "name": name},
            namespace=namespace,
            uid=str(uuid.UUID(int=self._rng.getrandbits(128), version=4)),
            now=self._timestamp(),
            generation=1 if kind.has_generation else None,
        )
        given["metadata"] = fresh
        if version.has_status:
            given.pop(STATUS, None)
        new = kept(self._acceptable(kind, version, given, name, meta.problems(fresh), is_new=True))
        if metadata.get("resourceVersion") and not dry_run:
            raise StatusError(500, "", "resourceVersion should not be set on objects to be created")
        key = f"{namespace}/{name}"
        if key in table.objects:
            deleting = "deletionTimestamp" in table.objects[key].body["metadata"]
            raise already_exists(kind.plural, kind.group, name, deleting=deleting)
        if dry_run:
            return encode({**new, "apiVersion": kind.api_version(version.name)})
        return self._commit(table, EventType.ADDED, None, new).raw_as(kind.api_version(version.name))

    def patch(
        self,
        resource: Resource,
        name: str,
        body: Body,
        namespace: str | None = None,
        *,
        subresource: str = "",
        dry_run: bool = False,
    ) -> bytes:
        """Merge-patch an object (RFC 7396) and return it, as JSON."""
        table, version = self._table(resource)
        old = self._find(table, name, namespace, subresource)
        seen = {**old.body, "apiVersion": table.kind.api_version(version.name)}
        return self._update(table, version, old, merge(seen, plain(body)), subresource, dry_run=dry_run)

    def replace(
        self,
        resource: Resource,
        name: str,
        body: Body,
        namespace: str | None = None,
        *,
        subresource: str = "",
        dry_run: bool = False,
    ) -> bytes:
        """Put another object in an object's place; its metadata.resourceVersion is the precondition."""
        table, version = self._table(resource)
        given = plain_object(body)
        check_type(table.kind, version, given)
        old = self._find(table, name, namespace, subresource)
        metadata = meta.checked_shape(given)
        if not metadata.get("resourceVersion"):
            if table.kind.custom or table.kind.group == "coordination.k8s.io":
                rule = "Invalid value: 0: must be specified for an update"
                cause = Cause("FieldValueInvalid", rule, "metadata.resourceVersion")
                raise invalid(table.kind.plural, table.kind.group, name, [cause])
            metadata.pop("resourceVersion", None)
        given["metadata"] = {**metadata, "namespace": metadata.get("namespace") or old.namespace}
        return self._update(table, version, old, given, subresource, dry_run=dry_run)

    def delete(
        self,
        resource: Resource,
        name: str,
        namespace: str | None = None,
        *,
        uid: str = "",
        resource_version: str = "",
        dry_run: bool = False,
    ) -> bytes:
        """Delete an object; return a Status, or while finalizers keep it, the object (both as JSON)."""
        table, version = self._table(resource)
        kind = table.kind
        old = self._find(table, name, namespace)
        check_delete(kind, old, uid, resource_version)
        metadata: Mapping[str, Any] = old.body["metadata"]
        if not metadata.get("finalizers"):
            if not dry_run:
                self._remove(table, old)
            details = {"name": name, "group": kind.group, "kind": kind.plural, "uid": metadata["uid"]}
            shown = {key: value for key, value in details.items() if value}
            status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": shown}
            return msgspec.json.encode(status)
        if "deletionTimestamp" in metadata:
            return old.raw_as(kind.api_version(version.name))
        marked = {**metadata, "deletionTimestamp": self._timestamp(), "deletionGracePeriodSeconds": 0}
        if "generation" in marked:
            marked["generation"] += 1
        new = {**old.body, "metadata": marked}
        if dry_run:
            return encode({**new, "apiVersion": kind.api_version(version.name)})
        return self._commit(table, EventType.MODIFIED, old, new).raw_as(kind.api_version(version.name))

    # -- inside

    def _table(self, resource: Resource) -> tuple[_Table, Version]:
        table = self._tables.get((resource.group, resource.plural))
        version = table.kind.version(resource.version) if table else None
        if table is None or version is None:
            raise not_served()
        return table, version

    def _find(self, table: _Table, name: str, namespace: str | None, subresource: str = "") -> Stored:
        kind = table.kind
        if subresource and not (subresource == STATUS and any(version.has_status for version in kind.versions)):
            raise not_found(kind.plural, kind.group, name) if kind.custom else not_served()
        stored = table.objects.get(f"{namespace or '' if kind.namespaced else ''}/{name}")
        if stored is None:
            raise not_found(kind.plural, kind.group, name)
        return stored

    def _timestamp(self) -> str:
        return self.now().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def _acceptable(
        self, kind: Kind, version: Version, body: dict[str, Any], name: str, causes: list[Cause], *, is_new: bool
    ) -> dict[str, Any]:
        """Return the object as it will be kept, in the storage version. Raises StatusError 422."""
        if version.schema is not None:
            body = schemas.normalise_object(body, version.schema)
            causes = causes + schemas.object_problems(body, version.schema)
        else:
            if is_new and not causes and not kind.problems(body):
                body = kind.begin(body, self._timestamp())
            causes = causes + kind.problems(body)
        if causes:
            raise invalid(kind.kind, kind.group, name, causes)
        return {**body, "apiVersion": kind.api_version(kind.storage)}

    def _update(
        self, table: _Table, version: Version, old: Stored, new: Any, subresource: str, *, dry_run: bool
    ) -> bytes:
        kind = table.kind
        metadata = meta.checked_shape(new)
        check_identity(kind, version, old, new, metadata)
        if metadata.get("resourceVersion") and metadata["resourceVersion"] != str(old.resource_version):
            check_number(metadata["resourceVersion"])
            raise conflict(kind.plural, kind.group, old.name, _MODIFIED)
        new, causes = permitted(kind, version, old, new, metadata, subresource)
        new = self._acceptable(kind, version, new, old.name, causes, is_new=False)
        if kind.has_generation and generation_matters(old.body, new, version):
            new["metadata"] = {**new["metadata"], "generation": old.body["metadata"]["generation"] + 1}
        new = kept(new)
        api_version = kind.api_version(version.name)
        if encode(new) == old.raw:
            return old.raw_as(api_version)
        emptied = "deletionTimestamp" in new["metadata"] and not new["metadata"].get("finalizers")
        if dry_run or emptied:
            if not dry_run:
                self._remove(table, old)
            return encode({**new, "apiVersion": api_version})
        return self._commit(table, EventType.MODIFIED, old, new).raw_as(api_version)

    def _commit(self, table: _Table, change: EventType, old: Stored | None, new: dict[str, Any]) -> Stored:
        self._version += 1
        stored = stored_at(new, self._version)
        table.objects[stored.key] = stored
        if (table.kind.group, table.kind.plural) == (CRDS.group, CRDS.plural):
            self._serve(kind_of(new))
        table.history.add(Change(self._version, change, old, stored))
        return stored

    def _remove(self, table: _Table, old: Stored) -> None:
        self._version += 1
        del table.objects[old.key]
        if (table.kind.group, table.kind.plural) == (CRDS.group, CRDS.plural):
            self._tables.pop((old.body["spec"]["group"], old.body["spec"]["names"]["plural"]), None)
        table.history.add(Change(self._version, EventType.DELETED, old, stored_at(old.body, self._version)))
