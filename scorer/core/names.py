"""
One volume, several spellings.

The PV of a Mayastor volume is called pvc-<uuid>; exporters and people write that, or the bare uuid. Both mean the same
volume here, whose name is the PV's. Any other name stands for itself.
"""

from __future__ import annotations

import re

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_PREFIX = "pvc-"
_UUID_LENGTH = 36


def canonical(name: str) -> str:
    """Return the PV name: pvc-<uuid> for a bare uuid, any other name as it is."""
    if len(name) == _UUID_LENGTH and _UUID.fullmatch(name):
        return _PREFIX + name
    return name


def spellings(name: str) -> tuple[str, ...]:
    """Return every way in which a label may spell the volume, the PV name first."""
    full = canonical(name)
    uuid = full.removeprefix(_PREFIX)
    return (full, uuid) if canonical(uuid) == full != uuid else (full,)
