"""
VolumeMigrations as a whole: reading all of them, naming a new one, writing it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

from common.kube.api import VOLUME_MIGRATIONS, KubeApi
from common.logs import Logger
from common.resources.migration import FINALIZER, MigrationSpec, VolumeMigration
from migrator.journal import decode_migration


def record_name(request_id: str) -> str:
    """Name the record of a request: the same request has the same name, whoever writes it."""
    return f"vmig-{hashlib.sha256(request_id.encode()).hexdigest()[:32]}"


def record_body(spec: MigrationSpec) -> Mapping[str, Any]:
    """Write a new record; the finalizer is there from the beginning, so that a deletion is always noticed."""
    return {
        "metadata": {"name": record_name(spec.request_id), "finalizers": [FINALIZER]},
        "spec": msgspec.json.decode(msgspec.json.encode(spec)),
    }


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
