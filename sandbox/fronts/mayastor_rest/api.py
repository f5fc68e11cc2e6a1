"""
The API without a socket: requests in, answers out, time handed in.

`submit` takes a request at its moment and gives a Ticket, which says when the answer is there and then what it is; in
between the caller lets time pass. That is all a server or a simulation has to add.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from random import Random
from typing import Final

from sandbox.fronts.mayastor_rest import calls, errors
from sandbox.fronts.mayastor_rest.cache import DEFAULT_SECONDS, StateCache
from sandbox.fronts.mayastor_rest.errors import Answer
from sandbox.fronts.mayastor_rest.faults import GRPC_SECONDS, Effect, Fault, Faults
from sandbox.fronts.mayastor_rest.requests import Parts, Request, UnreadableError, check_token
from sandbox.fronts.mayastor_rest.views import View
from sandbox.world.control.counts import begin_count_change
from sandbox.world.control.plane import ControlSettings, Plane, RefusedError
from sandbox.world.control.reconcile import Finished, advance, noticed
from sandbox.world.mayastor import Change

EPOCH: Final = datetime(2026, 1, 1, tzinfo=UTC)
REMEMBERED_REQUESTS: Final = 100_000
_UNKNOWN: Final = Answer(404)


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """How the API is set up."""

    control: ControlSettings
    cache_seconds: float = DEFAULT_SECONDS
    token_required: bool = False


class Ticket:
    """An answer to come. `ready_at` is when, in seconds of the model's clock; None: never."""

    def __init__(self, ready_at: float | None, answer: Callable[[], Answer | None]) -> None:
        self.ready_at = ready_at
        self._answer = answer

    def answer(self) -> Answer | None:
        """The answer, once it is time; None if the connection breaks instead."""
        return self._answer()


class RestApi:
    """The control plane and its API. Not thread-safe; all calls at moments that do not go back."""

    def __init__(self, plane: Plane, settings: ApiSettings, rng: Random, *, epoch: datetime = EPOCH) -> None:
        """`epoch`: the wall clock's time at 0 of the model's clock."""
        self.plane = plane
        self.settings = settings
        self.rng = rng
        self.faults = Faults()
        self.cache = StateCache(plane, settings.control, settings.cache_seconds)
        self.changes: list[Change] = []
        """All that happened to replicas as time passed, oldest first."""
        self.requests: deque[Request] = deque(maxlen=REMEMBERED_REQUESTS)
        """What was asked lately, oldest first."""
        self._epoch = epoch
        self._finished: dict[int, Finished] = {}
        self._routes = calls.routes(settings.control.version)

    def advance(self, now: float) -> None:
        """Let time pass until `now`, refreshing the cache on the way."""
        while True:
            refresh = self.cache.next_refresh(self.plane.now)
            until = now if refresh is None else min(now, refresh)
            before, advanced = self.plane, advance(self.plane, until, self.rng, self.settings.control)
            self.plane = advanced.plane
            self.changes.extend(advanced.changes)
            self._finished |= {done.change.number: done for done in advanced.finished}
            self.cache.touch(before, self.plane)
            self.cache.refresh(self.plane)
            if until >= now:
                return

    def change(self, act: Callable[[Plane], Plane]) -> None:
        """Change the world behind the API's back: lose a node, take a pool away."""
        self.plane = noticed(act(self.plane), self.rng, self.settings.control)

    def set_control(self, settings: ControlSettings) -> None:
        """Set the control plane up anew."""
        self.settings = replace(self.settings, control=settings)
        self.cache = StateCache(self.plane, settings, self.cache.seconds)

    def view(self) -> View:
        """What answers show now."""
        return View(self.plane, self.cache.look(self.plane), self.settings.control)

    def call(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Answer:
        """Ask something whose answer is there at once. Raises RuntimeError if it is not."""
        ticket = self.submit(Request(method, path, body, headers or {"content-type": "application/json"}))
        answer = ticket.answer() if ticket.ready_at == self.plane.now else None
        if answer is None:
            raise RuntimeError(f"{method} {path}: the answer takes its time; use submit")
        return answer

    def submit(self, request: Request) -> Ticket:
        """Take a request at this moment."""
        self.requests.append(request)
        fault = self.faults.take(request.method, request.path)
        if fault is None:
            return self._now(self._perform(request, None))
        return self._disturbed(request, fault)

    def _now(self, answer: Answer | None) -> Ticket:
        return Ticket(self.plane.now, lambda: answer)

    def _disturbed(self, request: Request, fault: Fault) -> Ticket:
        late = self.plane.now + GRPC_SECONDS
        match fault.effect:
            case Effect.DOWN:
                return self._now(errors.core_down())
            case Effect.TIMEOUT_BEFORE:
                return Ticket(late, errors.timed_out)
            case Effect.TIMEOUT_AFTER:
                self._perform(request, None)
                return Ticket(late, errors.timed_out)
            case Effect.LOST_BEFORE:
                return self._now(None)
            case Effect.LOST_AFTER:
                self._perform(request, None)
                return self._now(None)
            case Effect.SILENT:
                self._perform(request, None)
                return Ticket(None, lambda: None)
            case Effect.DATA_PLANE:
                return self._now(self._perform(request, fault))
            case Effect.SLOW:
                return self._slow(request, fault)

    def _slow(self, request: Request, fault: Fault) -> Ticket:
        """A change of a replica count under way for a while; everything else is done at once and answered late."""
        found = self._find(request)
        if found is None or found[0] != "setReplicaCount":
            answer = self._perform(request, None)
            late = fault.seconds > GRPC_SECONDS
            ready = self.plane.now + min(fault.seconds, GRPC_SECONDS)
            return Ticket(ready, lambda: errors.timed_out() if late else answer)
        parts, due = found[1], self.plane.now + fault.seconds
        try:
            self._authorize(request)
            volume, count = parts.uuid("volume"), parts.small_number("count")
            self.plane, change = begin_count_change(self.plane, volume, count, due, self.rng, self.settings.control)
        except UnreadableError as error:
            return self._now(error.answer)
        except RefusedError as error:
            return self._now(self._refuse(error))
        if fault.seconds > GRPC_SECONDS:
            return Ticket(self.plane.now + GRPC_SECONDS, errors.timed_out)
        return Ticket(due, lambda: self._outcome(change.number, volume))

    def _outcome(self, number: int, volume: str) -> Answer:
        done = self._finished.pop(number)
        if done.refused is not None:
            return errors.refusal(done.refused)
        return Answer(200, self.view().volume(volume))

    def _perform(self, request: Request, fault: Fault | None) -> Answer:
        found = self._find(request)
        if found is None:
            return _UNKNOWN
        name, parts = found
        try:
            self._authorize(request)
            return calls.CALLS[name](self, parts, fault)
        except UnreadableError as error:
            return error.answer
        except RefusedError as error:
            return self._refuse(error)

    def commit(self, plane: Plane) -> None:
        """Take what an operation made of the plane, and see what it changed."""
        before, self.plane = self.plane, plane
        self.cache.touch(before, plane)

    def _refuse(self, error: RefusedError) -> Answer:
        if error.after is not None:
            self.commit(error.after)
        return errors.refusal(error)

    def _authorize(self, request: Request) -> None:
        if self.settings.token_required:
            check_token(request)

    def _find(self, request: Request) -> tuple[str, Parts] | None:
        for route in self._routes:
            parts = route.read(request)
            if parts is not None:
                return route.name, parts
        return None

    @property
    def control(self) -> ControlSettings:
        return self.settings.control

    @property
    def epoch(self) -> datetime:
        return self._epoch
