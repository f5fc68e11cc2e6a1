"""
Mayastor's REST API as one process has it: the control plane in memory, and whatever the seed has in mind on the way.

The client is the product's own but for the exchange itself. It has the deadline that the real one has; past it, and
wherever the connection breaks, nobody knows what happened.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final
from urllib.parse import unquote

import msgspec

from common.kube.api import Resource
from migrator.backends.rest.answers import Meaning, Refused, RestError
from migrator.backends.rest.client import RestClient
from sandbox.fronts.mayastor_rest.api import Ticket
from sandbox.fronts.mayastor_rest.app import encode
from sandbox.fronts.mayastor_rest.errors import Answer
from sandbox.world.calls import Call, Verb
from tests.simulation.facts import Read
from tests.simulation.faults import Faults, Mishap, Moment
from tests.simulation.kube import Issue
from tests.simulation.loop import VirtualLoop
from tests.simulation.process import Process, never
from tests.simulation.rest_world import RestWorld
from tests.simulation.world import PV_PREFIX

MAYASTOR: Final = Resource("mayastor", "v0", "rest", "Rest")
URL: Final = "http://mayastor-api-rest:8081"


class SimRestClient(RestClient):
    """The client of one life of one process."""

    def __init__(
        self,
        world: RestWorld,
        process: Process,
        faults: Faults,
        loop: VirtualLoop,
        *,
        operation_seconds: float,
        issue: Callable[[Process, Call, Any], Issue],
    ) -> None:
        super().__init__(URL, None, None, None, operation_seconds)  # type: ignore[arg-type]
        self._world = world
        self._process = process
        self._faults = faults
        self._loop = loop
        self._issue = issue
        self._deadline = operation_seconds

    async def _exchange(
        self, session: object, method: str, path: str, data: bytes | None, headers: dict[str, str], what: str
    ) -> tuple[int, bytes]:
        if self._process.dead:
            await never()
        if method == "GET":
            answer = await self._look(path, what)
        else:
            answer = await self._in_time(self._send(method, path, data, what), what)
        return answer.status, encode(answer)

    async def _in_time(self, asking: Coroutine[Any, Any, Answer], what: str) -> Answer:
        try:
            async with asyncio.timeout(self._deadline):
                return await asking
        except TimeoutError as error:
            told = f"no answer within {self._deadline:g} s"
            raise RestError(what, Refused(Meaning.OUTCOME_UNKNOWN, 0, told=told)) from error

    async def _look(self, path: str, what: str) -> Answer:
        there, back = self._faults.latency()
        sent = self._loop.time()
        mishap = self._faults.of_read(Call(Verb.GET, MAYASTOR, path), self._process)
        asking = self._ask(path, what, there, back, mishap)
        # Most reads are quick, and then nobody has to look at the time.
        quick = mishap is None and there + back < self._deadline
        answer = await (asking if quick else self._in_time(asking, what))
        self._note_read(path, sent, answer)
        return answer

    async def _ask(self, path: str, what: str, there: float, back: float, mishap: Mishap | None) -> Answer:
        await asyncio.sleep(there)
        if mishap is not None:
            await self._instead(mishap, what)
        ticket = self._world.submit(None, "GET", f"/v0/{path}", None)
        answered = self._answered(ticket, what)
        answer = await (answered if ticket.ready_at == self._loop.time() else self._in_time(answered, what))
        if back:
            await asyncio.sleep(back)
        return answer

    def _note_read(self, path: str, sent: float, answer: Answer) -> None:
        head, _, uuid = path.partition("/")
        witness = self._world.witness
        if head != "volumes" or not uuid or answer.status != 200 or witness is None:
            return
        body: Any = msgspec.json.decode(encode(answer))
        places = body["state"]["replica_topology"]
        synced = {
            key: place.get("state") == "Online"
            and place.get("child-status") == "Online"
            and place.get("rebuild-progress") is None
            for key, place in places.items()
        }
        witness.has_read(self._process, PV_PREFIX + uuid, Read(sent, self._loop.time(), synced))

    async def _send(self, method: str, path: str, data: bytes | None, what: str) -> Answer:
        process = self._process
        process.writes += 1
        head, name = path.split("/")[:2]
        call = Call(Verb.UPDATE, MAYASTOR, PV_PREFIX + name if head == "volumes" else unquote(path))
        issue = self._issue(process, call, {"method": method, "path": path})
        mishap = self._faults.of_rest_write(call, process, self._deadline, counts=head == "volumes")
        await self._moment(Moment.BEFORE, mishap)
        there, back = self._faults.latency()
        await asyncio.sleep(there)
        if mishap is not None and mishap.late is not None:
            self._faults.on_their_way += 1
            self._loop.after(mishap.late, lambda: self._late(issue, method, path, data))
        if mishap is not None and mishap.rest is not None:
            self._world.api.faults.inject(mishap.rest)
        if mishap is not None and not mishap.answered:
            await self._instead(mishap, what)
        answer = await self._answered(self._world.submit(issue, method, f"/v0/{path}", data), what)
        await self._moment(Moment.AFTER, mishap)
        if back:
            await asyncio.sleep(back)
        issue.heard = True
        return answer

    def _late(self, issue: Issue, method: str, path: str, data: bytes | None) -> None:
        self._faults.on_their_way -= 1
        ticket = self._world.submit(issue, method, f"/v0/{path}", data)
        answer = ticket.answer() if ticket.ready_at is not None and ticket.ready_at <= self._loop.time() else None
        status = answer.status if answer is not None else "?"
        self._faults.note(f"late effect of {issue}, sent at {issue.at:.3f} s: {status}")

    async def _moment(self, moment: Moment, mishap: Mishap | None) -> None:
        if mishap is None or mishap.befalls is not moment:
            return
        if mishap.pause is None:
            self._faults.kill(self._process)
        else:
            self._faults.pause(self._process, mishap.pause)
        await asyncio.sleep(0)

    async def _answered(self, ticket: Ticket, what: str) -> Answer:
        """Wait for an answer for as long as it takes."""
        if ticket.ready_at is None:
            await never()
        elif ticket.ready_at > self._loop.time():
            await asyncio.sleep(ticket.ready_at - self._loop.time())
        self._world.advance()
        answer = ticket.answer()
        if answer is None:
            raise RestError(what, Refused(Meaning.OUTCOME_UNKNOWN, 0, told="the connection broke"))
        return answer

    async def _instead(self, mishap: Mishap, what: str) -> None:
        await asyncio.sleep(mishap.seconds)
        meaning = Meaning.OUTCOME_UNKNOWN
        if mishap.name == "not sent":
            meaning = Meaning.NOT_SENT
        elif mishap.code == 429:
            meaning = Meaning.BUSY
        elif mishap.code == 503:
            meaning = Meaning.NOT_NOW
        raise RestError(what, Refused(meaning, mishap.code, told=mishap.name))
