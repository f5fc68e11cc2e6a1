"""
VolumeMigrations as a whole: naming and writing a new one, reading all of them, and knowing them while they change.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from common.kube.api import VOLUME_MIGRATIONS, ConflictError, KubeApi, NotFoundError
from common.logs import Logger
from common.resources.migration import FINALIZER, MigrationSpec, MigrationState, VolumeMigration
from migrator.journal import Journal, JournalLostError, RecordGoneError, decode_migration


def record_name(request_id: str) -> str:
    """Name the record of a request: the same request has the same name, whoever writes it."""
    return f"vmig-{hashlib.sha256(request_id.encode()).hexdigest()[:32]}"


def record_body(spec: MigrationSpec) -> Mapping[str, Any]:
    """Write a new record; the finalizer is there from the beginning, so that a deletion is always noticed."""
    return {
        "metadata": {"name": record_name(spec.request_id), "finalizers": [FINALIZER]},
        "spec": msgspec.json.decode(msgspec.json.encode(spec)),
    }


# --- reading ---------------------------------------------------------------------------------------------------------


async def list_migrations(api: KubeApi, log: Logger) -> tuple[VolumeMigration, ...]:
    """Read all records afresh; one that cannot be understood is left out and told of. Raises KubeError."""
    records: list[VolumeMigration] = []
    token = ""
    while True:
        page = await api.list_page(VOLUME_MIGRATIONS, limit=500, continue_token=token)
        for raw in page.items:
            try:
                records.append(decode_migration(raw))
            except (msgspec.MsgspecError, ValueError) as error:
                log.warning("VolumeMigration cannot be understood and is left alone", why=str(error))
        token = page.continue_token
        if not token:
            return tuple(records)


async def read_migration(api: KubeApi, name: str) -> VolumeMigration:
    """Read one record afresh. Raises RecordGoneError, KubeError, and ValueError if it cannot be understood."""
    try:
        return decode_migration(await api.get(VOLUME_MIGRATIONS, name))
    except NotFoundError as error:
        raise RecordGoneError(f"{name}: its record is gone") from error


# --- the finalizer ---------------------------------------------------------------------------------------------------


async def hold(api: KubeApi, journal: Journal) -> None:
    """Put our finalizer on a record that somebody wrote by hand. Raises JournalLostError if it changed, KubeError."""
    meta = journal.record.metadata
    if FINALIZER in (meta.finalizers or ()):
        return
    precondition = {"resourceVersion": meta.resource_version, "finalizers": [*(meta.finalizers or ()), FINALIZER]}
    try:
        raw = await api.patch(VOLUME_MIGRATIONS, meta.name, {"metadata": precondition})
    except (ConflictError, NotFoundError) as error:
        raise JournalLostError(f"{meta.name}: changed while it was admitted") from error
    journal.record = decode_migration(raw)


async def let_go(api: KubeApi, record: VolumeMigration) -> VolumeMigration | None:
    """Take our finalizer off an ended record; None if it is gone, or changed and is to be looked at again."""
    meta = record.metadata
    left = [finalizer for finalizer in meta.finalizers or () if finalizer != FINALIZER]
    body = {"metadata": {"resourceVersion": meta.resource_version, "finalizers": left or None}}
    try:
        return decode_migration(await api.patch(VOLUME_MIGRATIONS, meta.name, body))
    except (NotFoundError, ConflictError):
        return None


async def remove(api: KubeApi, record: VolumeMigration) -> bool:
    """Delete an ended record; tells whether it was still there. Raises KubeError."""
    try:
        await api.delete(VOLUME_MIGRATIONS, record.metadata.name, uid=record.metadata.uid)
    except (NotFoundError, ConflictError):
        return False
    return True


# --- knowing ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Known:
    """A record, and which version of it the copy showed before it was read or written here; None: it is the copy's."""

    record: VolumeMigration
    instead_of: str | None = None


class Roster:
    """
    The records as whoever leads knows them: a watch's copy, corrected by what was read and written directly.

    The copy may be late, or tell old news again. So of two versions the one that is further on counts, since states
    only go on; and what was learned here counts until the copy has moved from where it was before. An active migration
    is taken off only by who finds its record gone: otherwise a slot could be given away twice.
    """

    def __init__(self, copy: Callable[[], Mapping[str, VolumeMigration]]) -> None:
        """`copy` gives the records as a watch tells of them, by name."""
        self._copy = copy
        self._known: dict[str, _Known] = {}
        self._shown: dict[str, str] = {}
        """By name, the version that the copy showed at the last look."""
        self._gone: set[str] = set()
        """By uid: records that are gone, whatever the copy says."""

    async def read(self, api: KubeApi, log: Logger) -> tuple[VolumeMigration, ...]:
        """Begin anew, with all records as they are. Raises KubeError."""
        self._known.clear()
        self._mark(self._copy())
        records = await list_migrations(api, log)
        for record in records:
            self.learn(record)
        return records

    def learn(self, record: VolumeMigration) -> None:
        """Note a record that was read or written directly since the last look."""
        name = record.metadata.name
        self._known[name] = _Known(record, self._shown.get(name, ""))

    def forget(self, record: VolumeMigration) -> None:
        """Note that a record is gone."""
        self._gone.add(record.metadata.uid)

    def look(self) -> tuple[VolumeMigration, ...]:
        """List all records as they are known now."""
        copy = self._copy()
        known = {name: entry for name, entry in self._known.items() if entry.record.active or name in copy}
        for name, shown in copy.items():
            entry = known.get(name)
            if entry is None or not _outlasts(entry, shown):
                known[name] = _Known(shown)
        self._known = {name: entry for name, entry in known.items() if entry.record.metadata.uid not in self._gone}
        self._mark(copy)
        return tuple(entry.record for entry in self._known.values())

    def _mark(self, copy: Mapping[str, VolumeMigration]) -> None:
        self._shown = {name: record.metadata.resource_version for name, record in copy.items()}


def _outlasts(entry: _Known, shown: VolumeMigration) -> bool:
    known, later = _advance(entry.record), _advance(shown)
    return known > later or (known == later and shown.metadata.resource_version == entry.instead_of)


def _advance(record: VolumeMigration) -> tuple[datetime, int]:
    """Tell how far on a record is: a younger one of the same name is another one, and the later."""
    state = record.status.state
    rank = 2 if state.terminal else int(state is not MigrationState.PENDING)
    return record.metadata.creation_timestamp or datetime.min.replace(tzinfo=UTC), rank
