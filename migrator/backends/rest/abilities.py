"""
What the control plane at hand can do, found out without changing anything.

A call on a thing that cannot exist is answered NotFound, with a body, where the call is known, and 404 with an empty
body where it is not.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from migrator.backends.rest import shapes
from migrator.backends.rest.answers import Meaning, RestError
from migrator.backends.rest.client import RestClient
from migrator.backends.rest.facts import engine_version
from migrator.core.steering.abilities import Marks
from migrator.core.steering.cluster import PoolCordon

NO_SUCH_POOL: Final = "couchestor_asks_what_is_known"
"""No name of a DiskPool: those have no underscores."""
_KNOWN: Final = frozenset({Meaning.GONE, Meaning.MISTAKE, Meaning.DONE_ALREADY, Meaning.REFUSED})
"""Answers that only somebody gives who knows the call."""


async def find_marks(client: RestClient, nodes: Iterable[shapes.Node]) -> Marks:
    """Ask. Raises RestError if the answer says neither yes nor no."""
    versions = tuple(engine_version(node) for node in nodes)
    return Marks(pool_cordon_call=await knows_pool_cordon(client), engine_versions=versions)


async def knows_pool_cordon(client: RestClient) -> bool:
    """Tell whether pools can be cordoned. Raises RestError if the answer says neither."""
    try:
        await client.uncordon_pool(NO_SUCH_POOL, PoolCordon(replicas=True))
    except RestError as error:
        if error.meaning is Meaning.UNKNOWN_CALL:
            return False
        if error.meaning in _KNOWN:
            return True
        raise
    return True
