"""Which Mayastor is taken, where the settings leave that open: never by a guess, and for good."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator

import pytest

from common.placement import Pool
from common.resources.migration import BackendKind
from migrator.backends.base import BackendError, Capabilities, Listener
from migrator.backends.crd import CrdBackend
from migrator.choosing_backend import PATIENCE_SECONDS, Candidate, ChoosingBackend, Found, Presence
from tests.clock import ManualClock
from tests.moves.cluster import NAMESPACE, QUIET
from tests.moves.cluster import Cluster as KubeCluster

HERE = Found(Presence.THERE)
ABSENT = Found(Presence.NOT_THERE, "something else answers")
SILENT = Found(Presence.UNKNOWN, "no answer")


class Standing:
    """A backend that does nothing, and a place where it may be."""

    def __init__(self, kind: BackendKind, found: Found) -> None:
        self.kind = kind
        self.found = found
        self.running = False
        self.listeners: list[Listener] = []
        self.capabilities = Capabilities(kind, can_migrate=True)
        self.read_gap_seconds = 7.0
        self.pools = {"p": Pool("p", None)}
        self.volumes: dict[str, object] = {}
        self.synced, self.age_seconds = True, 1.0

    def listen(self, listener: Listener) -> None:
        self.listeners.append(listener)

    async def ask(self) -> Found:
        return self.found

    async def run(self) -> None:
        self.running = True
        await asyncio.Event().wait()


class Choice:
    """A rest and a crd backend, and the one that chooses."""

    def __init__(self, rest: Found, crd: Found) -> None:
        self.clock = ManualClock()
        self.rest, self.crd = Standing(BackendKind.REST, rest), Standing(BackendKind.CRD, crd)
        candidates = [Candidate(each, each.ask, each.run) for each in (self.rest, self.crd)]  # type: ignore[arg-type]
        self.backend = ChoosingBackend(candidates, clock=self.clock, rng=random.Random(1), log=QUIET)
        self.told = 0
        self.backend.listen(self._count)

    def _count(self, _volumes: frozenset[str], _pools: frozenset[str]) -> None:
        self.told += 1

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.ensure_future(self.backend.run())
        try:
            await self.clock.advance(0)
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize(
    ("rest", "crd", "taken"),
    [
        (HERE, HERE, BackendKind.REST),
        (HERE, SILENT, BackendKind.REST),
        (HERE, ABSENT, BackendKind.REST),
        (ABSENT, HERE, BackendKind.CRD),
    ],
)
async def test_the_first_that_is_there_is_taken_at_once(rest: Found, crd: Found, taken: BackendKind) -> None:
    choice = Choice(rest, crd)
    async with choice.running():
        assert choice.backend.kind is taken
        assert [choice.rest.running, choice.crd.running] == [taken is BackendKind.REST, taken is BackendKind.CRD]
        assert choice.backend.capabilities.can_migrate
        assert choice.told == 1
        assert (choice.backend.read_gap_seconds, choice.backend.synced, set(choice.backend.pools)) == (7.0, True, {"p"})


async def test_silence_is_borne_with_for_a_while_before_the_other_is_taken() -> None:
    choice = Choice(SILENT, HERE)
    async with choice.running():
        await choice.clock.advance(PATIENCE_SECONDS - 0.1)
        assert not choice.crd.running
        await choice.clock.advance(PATIENCE_SECONDS + 0.1)
        assert choice.backend.kind is BackendKind.CRD


async def test_one_that_answers_late_is_taken_all_the_same() -> None:
    choice = Choice(SILENT, HERE)
    async with choice.running():
        choice.rest.found = HERE
        await choice.clock.advance(PATIENCE_SECONDS / 2)
        assert choice.backend.kind is BackendKind.REST


@pytest.mark.parametrize("rest", [SILENT, ABSENT])
@pytest.mark.parametrize("crd", [SILENT, ABSENT])
async def test_until_there_is_one_it_is_asked_for_and_nothing_is_done(rest: Found, crd: Found) -> None:
    choice = Choice(rest, crd)
    async with choice.running():
        await choice.clock.advance(600)
        known = choice.backend.capabilities
        assert (known.backend, known.can_migrate, known.known) == ("auto", False, False)
        assert known.detail == f"{rest.why}; {crd.why}"
        assert not choice.backend.synced
        assert (choice.backend.volumes, choice.backend.pools) == ({}, {})
        for ask in (lambda: choice.backend.kind, lambda: choice.backend.read_gap_seconds):
            with pytest.raises(BackendError, match=rest.why):
                ask()
        with pytest.raises(BackendError):
            await choice.backend.read("pvc", ())
        assert choice.told == 1, "what is not known is told once, and again when it changes"
        clearing = asyncio.ensure_future(choice.backend.take_over())
        await choice.clock.advance(60)
        assert not clearing.done()
        clearing.cancel()
        choice.rest.found = HERE
        await choice.clock.advance(60)
        assert choice.backend.kind is BackendKind.REST


async def test_the_choice_is_kept_whatever_happens_to_it_later() -> None:
    choice = Choice(HERE, HERE)
    async with choice.running():
        choice.rest.found = ABSENT
        choice.rest.synced = False
        await choice.clock.advance(3600)
        assert choice.backend.kind is BackendKind.REST
        assert not choice.backend.synced
        assert not choice.crd.running


async def test_who_listens_hears_of_the_one_that_was_chosen() -> None:
    choice = Choice(HERE, ABSENT)
    async with choice.running():
        choice.backend.listen(choice._count)
        assert len(choice.rest.listeners) == 2
        assert choice.crd.listeners == []


async def test_what_is_looked_for_before_its_version_is_known_is_not_taken_for_gone() -> None:
    backend = CrdBackend(
        KubeCluster().api(),
        group="openebs.io",
        version="",
        namespace=NAMESPACE,
        clock=ManualClock(),
        rng=random.Random(1),
        log=QUIET,
    )
    with pytest.raises(BackendError, match="still looking for MayastorVolumes"):
        await backend.read("pvc-abc123", ())
