"""
A migration whose record was taken away, finalizer and all, after something had been written for it.

Without a journal nothing can be put back safely. So the volume is left as it is and parked, where a person will find
it: on its PersistentVolume, which outlives the record.
"""

from __future__ import annotations

import random

import msgspec

from common.backoff import Backoff
from common.reasons import Reason
from common.resources.migration import MigrationState, VolumeMigration
from migrator.annotations import pv_seen
from migrator.backends.base import BackendError
from migrator.core.ending import annotation, is_told
from migrator.core.history import read_history
from migrator.core.model import AnnotatePv, Outcome, Purpose
from migrator.executor import Execution


def was_written_for(record: VolumeMigration) -> bool:
    """Tell whether anything may have been written to the volume; a journal that cannot be read does not deny it."""
    try:
        return read_history(record.status).last_for(Purpose.SCALE_UP) is not None
    except ValueError:  # msgspec.ValidationError is one
        return True


def lost(record: VolumeMigration, why: str) -> VolumeMigration:
    """Return the record as it would have ended."""
    pools = ", ".join(move.target_pool for move in record.spec.moves)
    message = f"{why}; replica count and topology may be as the move left them, a replica may be left on {pools}"
    status = msgspec.structs.replace(
        record.status, state=MigrationState.FAILED, reason=Reason.RECORD_LOST, message=message
    )
    return msgspec.structs.replace(record, status=status)


async def park(shared: Execution, record: VolumeMigration, rng: random.Random) -> None:
    """Tell the PersistentVolume; tried until it is told, gone, another one of its name, or the lease is not held."""
    write = annotation(record, Reason.RECORD_LOST, shared.clock.now())
    backoff = Backoff(rng, first_seconds=0.2, cap_seconds=30.0)
    while shared.lease.held:
        try:
            trouble = await _tell(shared, record, write)
        except BackendError as error:
            trouble = str(error)
        if not trouble:
            return
        volume = record.spec.pv_name
        shared.log.warning("not parked yet", migration=record.metadata.name, volume=volume, error=trouble)
        await shared.clock.sleep(backoff.next_seconds())


async def _tell(shared: Execution, record: VolumeMigration, write: AnnotatePv) -> str:
    """Try once; return why it has to be tried again, "" if not. Raises BackendError."""
    name, uid = record.spec.pv_name, record.status.pv_uid
    pv = await shared.objects.volume(name)
    if pv is None or (uid and pv.metadata.uid != uid) or is_told(pv.metadata.annotations or {}, write):
        return ""
    if not shared.lease.held:  # the read took its time
        return "the lease is not held any more"
    result = await shared.objects.annotate(name, write, pv_seen(pv))
    return "" if result.outcome is Outcome.DONE else f"{result.outcome}: {result.detail}"
