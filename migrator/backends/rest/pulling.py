"""
Levers, pulled and let go; and what is surely known of each.

A call whose answer is unknown may have pulled a lever, or may still. Letting go takes only what is surely ours: a label
is put back only where the value of ours is still seen, since otherwise somebody else has set it meanwhile.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from common.backoff import Backoff
from common.clock import Clock, within
from common.logs import Logger
from migrator.backends.rest.answers import Meaning, RestError
from migrator.backends.rest.client import RestClient
from migrator.backends.rest.survey import Surveyor, Things
from migrator.core.steering.cluster import PoolCordon, RestPool
from migrator.core.steering.levers import CordonNode, CordonPool, LabelPool, Lever, in_place

REPLICAS: Final = PoolCordon(replicas=True)
AGAIN_SECONDS: Final = 0.05
"""First wait before letting go is tried once more."""
_LET_GO: Final = frozenset({Meaning.DONE_ALREADY, Meaning.GONE})
"""Answers to letting go that say that there is nothing pulled any more."""

T = TypeVar("T")
MayWrite = Callable[[], bool]
"""Whether the lease is surely ours at this moment."""


@dataclass(slots=True)
class Pulled:
    """What has to be let go, and of what nobody can say when it will have been."""

    levers: list[Lever] = field(default_factory=list)
    """Those that are pulled or may be, the latest last."""
    uncertain: set[Lever] = field(default_factory=set)
    """Their own pulling was not answered: it may take effect even after they were let go."""


class Puller:
    """Pulls levers and lets them go; whoever asks it to has the turn."""

    def __init__(
        self, client: RestClient, surveyor: Surveyor, *, clock: Clock, rng: random.Random, log: Logger
    ) -> None:
        self._client = client
        self._surveyor = surveyor
        self._clock = clock
        self._rng = rng
        self._log = log

    async def pull(self, lever: Lever, pulled: Pulled, seconds: float) -> RestError | None:
        """
        Pull one; return the answer that says that it is not pulled, or does not say that it is.

        Once begun, it is waited for even where the work is cancelled: if it came after its letting go, it would stay.
        Raises TimeoutError when there is no answer in time.
        """
        return await through(self._pull(lever, pulled, seconds))

    async def _pull(self, lever: Lever, pulled: Pulled, seconds: float) -> RestError | None:
        pulled.levers.append(lever)
        pulled.uncertain.add(lever)
        try:
            await within(self._clock, seconds, _pull(self._client, lever))
        except RestError as error:
            if error.meaning.outcome_unknown:
                return error
            pulled.uncertain.discard(lever)
            # Of a node's cordon alone it can be told that the one that is there is ours.
            if error.meaning is Meaning.DONE_ALREADY and isinstance(lever, CordonNode):
                return None
            pulled.levers.remove(lever)
            return error
        pulled.uncertain.discard(lever)
        return None

    async def let_all_go(self, pulled: Pulled, until: float) -> frozenset[Lever]:
        """
        Let them go, trying until then, by the clock's monotonic time.

        Returns those that may still be pulled, or be yet.
        """
        left = dict.fromkeys(reversed(pulled.levers))
        backoff = Backoff(self._rng, first_seconds=AGAIN_SECONDS, cap_seconds=1.0)
        while left and (seconds := until - self._clock.monotonic()) > 0:
            try:
                # Half of what is left, so that one call without an answer is not the only one.
                await within(self._clock, max(seconds / 2, AGAIN_SECONDS), self._let_go_once(left))
            except TimeoutError:
                continue
            if left:
                await self._clock.sleep(min(backoff.next_seconds(), seconds))
        return frozenset(left) | pulled.uncertain

    async def _let_go_once(self, left: dict[Lever, None]) -> None:
        """Try each of them once, all at the same time, and take those out that are let go."""
        labels = [lever for lever in left if isinstance(lever, LabelPool)]
        others = [lever for lever in left if not isinstance(lever, LabelPool)]
        async with asyncio.TaskGroup() as tasks:
            for lever in others:
                tasks.create_task(self._let_one_go(lever, left))
            if labels:
                tasks.create_task(self._let_labels_go(labels, left))

    async def _let_labels_go(self, labels: Iterable[LabelPool], left: dict[Lever, None]) -> None:
        """Put labels back, except where somebody else has set them meanwhile."""
        try:
            things = await self._surveyor.things()
        except RestError as error:
            self._log.info("labels not put back yet", why=str(error))
            return
        for lever in labels:
            if in_place(lever, things.pools, things.nodes):
                await self._let_one_go(lever, left)
            else:
                left.pop(lever, None)

    async def _let_one_go(self, lever: Lever, left: dict[Lever, None]) -> None:
        try:
            await let_go(self._client, lever)
        except RestError as error:
            self._log.info("lever not let go yet", lever=named((lever,)), why=str(error))
        else:
            left.pop(lever, None)


async def through(work: Coroutine[Any, Any, T]) -> T:
    """
    Await something to its end, and only then be cancelled, if that was asked meanwhile.

    For what must not be left half done and ends by itself.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not task.cancelled():
            task.exception()  # whatever it is, it is of no interest any more
        raise cancelled
    return task.result()


async def _pull(client: RestClient, lever: Lever) -> None:
    match lever:
        case CordonNode():
            await client.cordon_node(lever.node, lever.label)
        case LabelPool(value=None):
            await client.unlabel_pool(lever.pool, lever.key)
        case LabelPool(value=str(value)):
            await client.label_pool(lever.pool, lever.key, value, overwrite=True)
        case CordonPool():
            await client.cordon_pool(lever.pool, REPLICAS)


async def let_go(client: RestClient, lever: Lever) -> None:
    """Let it go, whoever may have changed it since. Raises RestError where it may still be pulled."""
    try:
        match lever:
            case CordonNode():
                await client.uncordon_node(lever.node, lever.label)
            case LabelPool():
                await client.label_pool(lever.pool, lever.key, lever.previous, overwrite=True)
            case CordonPool():
                await client.uncordon_pool(lever.pool, REPLICAS)
    except RestError as error:
        if error.meaning not in _LET_GO:
            raise


# --- what is seen of them --------------------------------------------------------------------------------------------


def still_pulled(levers: Iterable[Lever], things: Things) -> tuple[Lever, ...]:
    """List those that are seen pulled and are ours to let go."""
    return tuple(
        lever
        for lever in dict.fromkeys(levers)
        if in_place(lever, things.pools, things.nodes)
        and not (isinstance(lever, CordonPool) and lever.previous.replicas)
    )


def taken_over(levers: Iterable[Lever], pools: Mapping[str, RestPool]) -> tuple[str, ...]:
    """Tell of the labels that are neither as we left them nor as they were."""
    told: list[str] = []
    for lever in levers:
        if not isinstance(lever, LabelPool) or lever.pool not in pools:
            continue
        found = pools[lever.pool].labels.get(lever.key)
        if found not in (lever.value, lever.previous):
            now = "gone" if found is None else f"{found} now"
            told.append(f"label {lever.key} of pool {lever.pool} is {now}, by somebody else, and stays so")
    return tuple(told)


def named(levers: Iterable[Lever]) -> str:
    """Name levers for a person."""
    words: list[str] = []
    for lever in levers:
        match lever:
            case CordonNode():
                words.append(f"cordon {lever.label} of node {lever.node}")
            case LabelPool():
                words.append(f"label {lever.key} of pool {lever.pool}")
            case CordonPool():
                words.append(f"cordon of pool {lever.pool}")
    return ", ".join(words)
