"""
What the control plane at hand can do, found out without changing anything.

A call on a thing that cannot exist is answered NotFound, with a body, where the call is known, and 404 with an empty
body where it is not.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable
from typing import Final

from migrator.backends.rest import shapes
from migrator.backends.rest.answers import Meaning, RestError
from migrator.backends.rest.client import RestClient
from migrator.backends.rest.facts import engine_version
from migrator.core.steering.abilities import Marks
from migrator.core.steering.cluster import MARK, PoolCordon

NOTHING: Final = "couchestor_asks_what_is_known"
"""No name of a DiskPool, nor of a node: those have no underscores."""
NO_SUCH_VOLUME: Final = "00000000-0000-0000-0000-000000000000"
"""The one uuid that is never given to anything."""
_KNOWN: Final = frozenset({Meaning.GONE, Meaning.MISTAKE, Meaning.DONE_ALREADY, Meaning.REFUSED})
"""Answers that only somebody gives who knows the call."""


async def find_marks(client: RestClient, nodes: Iterable[shapes.Node]) -> Marks:
    """Ask. Raises RestError if the answer says neither yes nor no."""
    versions = tuple(engine_version(node) for node in nodes)
    return Marks(pool_cordon_call=await knows_pool_cordon(client), engine_versions=versions)


async def lacking_calls(client: RestClient) -> tuple[str, ...]:
    """
    Name the calls that the control plane does not know and without which no volume can be moved.

    Raises RestError if an answer says neither.
    """
    lacking: list[str] = []
    if not await _knows(client.set_replica_count(NO_SUCH_VOLUME, 1)):
        lacking.append("PUT /volumes/{id}/replica_count/{n}")
    if not await _knows(client.uncordon_node(NOTHING, MARK)):
        lacking.append("DELETE /nodes/{id}/cordon/{label}")
    return tuple(lacking)


async def knows_pool_cordon(client: RestClient) -> bool:
    """Tell whether pools can be cordoned. Raises RestError if the answer says neither."""
    return await _knows(client.uncordon_pool(NOTHING, PoolCordon(replicas=True)))


async def _knows(call: Awaitable[object]) -> bool:
    try:
        await call
    except RestError as error:
        if error.meaning is Meaning.UNKNOWN_CALL:
            return False
        if error.meaning in _KNOWN:
            return True
        raise
    return True
