"""
What goes wrong with calls: drawn from the seed, one call after the other.

How bad the weather is differs from schedule to schedule and, within one, from call to call: what matters most, writes
to a volume and to the journal, is met most often. When a schedule calms down nothing goes wrong any more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum, auto
from random import Random
from typing import Final

from common.kube.api import EVENTS, LEASES, PERSISTENT_VOLUMES, VOLUME_MIGRATIONS, Resource
from sandbox.fronts.mayastor_rest.faults import Effect, Fault
from sandbox.world.calls import Call
from sandbox.world.control.plane import DataPlane
from tests.simulation.process import Process

PATIENCE: Final = 30.0
"""Seconds after which a client takes a request for lost."""


class Moment(Enum):
    """When a death or a pause comes."""

    BEFORE = auto()
    """The caller is sure to write, and nothing was sent."""
    AFTER = auto()
    """It took effect, and the answer was not read."""


@dataclass(frozen=True, slots=True)
class Mishap:
    """What goes wrong with one call."""

    name: str
    code: int = 0
    """What is answered instead; 0: nothing."""
    seconds: float = 0.0
    """How long that takes."""
    effective: bool = False
    """Whether the write happens all the same."""
    late: float | None = None
    """So many seconds after it was sent it happens, whatever was said."""
    retry_after: float | None = None
    befalls: Moment | None = None
    """When the caller dies or is suspended; then the call itself is well."""
    pause: float | None = None
    """For how long it is suspended; None: it dies."""
    rest: Fault | None = None
    """What is to go wrong in Mayastor's control plane; then the call itself is well."""

    @property
    def answered(self) -> bool:
        return self.befalls is not None or self.rest is not None


@dataclass(frozen=True, slots=True)
class Weather:
    """How much goes wrong: shares of calls."""

    writes: float
    reads: float
    watches: float
    deaths: float
    """Of writes."""
    pauses: float
    slow: float
    """Of calls that take far longer than usual."""


WEATHERS: Final = (
    Weather(writes=0.02, reads=0.004, watches=0.01, deaths=0.004, pauses=0.003, slow=0.01),
    Weather(writes=0.06, reads=0.01, watches=0.05, deaths=0.008, pauses=0.006, slow=0.03),
    Weather(writes=0.15, reads=0.03, watches=0.1, deaths=0.015, pauses=0.012, slow=0.05),
    Weather(writes=0.03, reads=0.005, watches=0.02, deaths=0.04, pauses=0.01, slow=0.01),
    Weather(writes=0.03, reads=0.005, watches=0.02, deaths=0.008, pauses=0.04, slow=0.02),
)


class Faults:
    """Draws what goes wrong, and keeps count."""

    def __init__(
        self,
        rng: Random,
        weather: Weather,
        *,
        now: Callable[[], float],
        kill: Callable[[Process], None],
        pause: Callable[[Process, float], None],
        note: Callable[[str], None],
    ) -> None:
        self._rng = rng
        self.weather = weather
        self._now = now
        self._kill = kill
        self._pause = pause
        self.note = note
        self.raging = True
        """Whether anything goes wrong."""
        self.count = 0
        self.lease_seconds = 15.0
        self.on_their_way = 0
        """Writes that will take effect late."""
        self.cut_off: dict[str, float] = {}
        """Until when a process reaches nobody."""
        self.outage_until = 0.0
        """Until when nobody reaches anybody."""
        self.lagging_until = 0.0
        """Until when watches are far behind."""

    def kill(self, process: Process) -> None:
        """Let it die here."""
        self._kill(process)

    def pause(self, process: Process, seconds: float) -> None:
        """Let it be suspended."""
        self._pause(process, seconds)

    def ease(self) -> None:
        """Let less go wrong from now on."""
        shares = {name: getattr(self.weather, name) / 4 for name in Weather.__slots__}
        self.weather = Weather(**shares)

    def calm(self) -> None:
        """Let nothing go wrong from now on."""
        self.raging = False
        self.cut_off.clear()
        self.outage_until = self.lagging_until = 0.0

    # --- times ---------------------------------------------------------------------------------------------------

    def latency(self) -> tuple[float, float]:
        """How long a call takes to get there and back."""
        rng = self._rng
        usual = 0.001 + 0.02 * rng.random()
        if self.raging and rng.random() < self.weather.slow:
            usual *= rng.choice((10, 50, 200, 800))
        return (usual, 0.0) if rng.random() < 0.5 else (usual / 2, usual / 2)

    def lag(self, resource: Resource) -> float:
        """How late a watch tells of a change."""
        rng = self._rng
        if self._now() < self.lagging_until:
            return rng.uniform(1.0, 20.0)
        if self.raging and rng.random() < self.weather.watches:
            return rng.uniform(0.1, 8.0)
        return 0.002 + 0.03 * rng.random()

    def share(self) -> float:
        """How much of its time a watch is given before the server ends it."""
        return self._rng.uniform(0.1, 1.0)

    # --- watches -------------------------------------------------------------------------------------------------

    def repeats(self) -> int:
        """How often an event is told once more."""
        if not self.raging or self._rng.random() >= self.weather.watches:
            return 0
        self._met("watch repeats itself")
        return 1

    def loses_call(self, path: str) -> str:
        """Tell where a call between services is lost: there, back, or nowhere."""
        if not self.raging or self._rng.random() >= self.weather.writes:
            return ""
        where = self._rng.choice(("there", "back"))
        self._met(f"{path} is lost on the way {where}")
        return where

    def stream_lag(self) -> float:
        """How late a message of a stream arrives."""
        return 0.001 + 0.02 * self._rng.random()

    def is_cut_off(self, process: Process) -> bool:
        """Tell whether a process reaches nobody."""
        return self._now() < self.cut_off.get(process.name, 0.0)

    def breaks_watch(self) -> bool:
        """Tell whether a watch breaks here."""
        if not self.raging or self._rng.random() >= self.weather.watches:
            return False
        self._met("watch breaks")
        return True

    # --- calls ---------------------------------------------------------------------------------------------------

    def of_read(self, call: Call, process: Process) -> Mishap | None:
        """Draw what goes wrong with a read."""
        cut = self._cut_off(process)
        if cut is not None:
            return cut
        if not self.raging or self._rng.random() >= self.weather.reads:
            return None
        rng = self._rng
        match rng.randrange(6):
            case 0:
                mishap = Mishap("no answer", seconds=PATIENCE)
            case 1:
                mishap = Mishap("connection lost", seconds=rng.uniform(0, 2))
            case 2:
                mishap = Mishap("429", 429, retry_after=rng.choice((None, 1.0, 5.0)))
            case 3:
                mishap = Mishap("410", 410) if call.verb in {"list", "watch"} else Mishap("500", 500)
            case 4:
                mishap = Mishap("500", 500)
            case _:
                mishap = Mishap("503", 503, seconds=rng.uniform(0, 5))
        self._met(f"{mishap.name}: {process.name} {call.verb} {call.resource.plural} {call.name}")
        return mishap

    def of_write(self, call: Call, process: Process) -> Mishap | None:
        """Draw what goes wrong with a write."""
        cut = self._cut_off(process)
        if cut is not None:
            return cut
        if not self.raging:
            return None
        rng, weather, weight = self._rng, self.weather, _weight(call.resource)
        draw = rng.random() / weight
        if draw < weather.deaths:
            moment = rng.choice((Moment.BEFORE, Moment.AFTER))
            mishap = Mishap(f"death {moment.name.lower()}", befalls=moment)
        elif draw < weather.deaths + weather.pauses:
            moment = rng.choice((Moment.BEFORE, Moment.AFTER))
            pause = rng.choice((rng.uniform(0.5, 5), rng.uniform(5, 40), rng.uniform(15, 120)))
            mishap = Mishap(f"pause {moment.name.lower()}", befalls=moment, pause=pause)
        elif draw < weather.deaths + weather.pauses + weather.writes:
            mishap = self._write_mishap(call)
        else:
            return None
        self._met(f"{mishap.name}: {process.name} {call.verb} {call.resource.plural} {call.name} {call.subresource}")
        return mishap

    def of_rest_write(self, call: Call, process: Process, operation: float, *, counts: bool) -> Mishap | None:
        """
        Draw what goes wrong with a write to Mayastor's REST API.

        Nothing takes effect later than `operation` seconds after it was sent: that is what the product may rely upon.
        Who is suspended between its last look at the lease and the sending is so for less than a lease, likewise.
        """
        cut = self._cut_off(process)
        if cut is not None:
            return replace(cut, name=self._rng.choice(("not sent", "cut off")))
        if not self.raging:
            return None
        rng, weather = self._rng, self.weather
        draw = rng.random() / (4.0 if counts else 1.2)
        if draw < weather.deaths:
            moment = rng.choice((Moment.BEFORE, Moment.AFTER))
            mishap = Mishap(f"death {moment.name.lower()}", befalls=moment)
        elif draw < weather.deaths + weather.pauses:
            moment = rng.choice((Moment.BEFORE, Moment.AFTER))
            longest = self.lease_seconds if moment is Moment.BEFORE else 120.0
            mishap = Mishap(f"pause {moment.name.lower()}", befalls=moment, pause=rng.uniform(0.5, longest))
        elif draw < weather.deaths + weather.pauses + weather.writes:
            mishap = self._rest_mishap(operation, counts=counts)
        else:
            return None
        self._met(f"{mishap.name}: {process.name} {call.name}")
        return mishap

    def _rest_mishap(self, operation: float, *, counts: bool) -> Mishap:
        rng = self._rng
        quick = rng.choice((0.0, rng.uniform(0, 2), operation))
        match rng.randrange(12):
            case 0:
                return Mishap("not sent", seconds=quick)
            case 1:
                return Mishap("lost", seconds=quick)
            case 2:
                return Mishap("429", 429)
            case 3 | 4:
                late = rng.uniform(0, 0.9 * operation)
                return Mishap("late effect", seconds=quick, late=late)
            case 5:
                return Mishap("down", rest=Fault(Effect.DOWN))
            case 6:
                return Mishap("503 before", rest=Fault(Effect.TIMEOUT_BEFORE))
            case 7:
                return Mishap("503 after", rest=Fault(Effect.TIMEOUT_AFTER))
            case 8:
                return Mishap("taken unheard", rest=Fault(Effect.LOST_AFTER))
            case 9:
                return Mishap("taken silently", rest=Fault(Effect.SILENT))
            case 10 if counts:
                return Mishap("data plane", rest=Fault(Effect.DATA_PLANE, step=rng.choice(list(DataPlane))))
            case _:
                return Mishap("slow", rest=Fault(Effect.SLOW, seconds=rng.uniform(0.2, 0.9 * operation)))

    def _write_mishap(self, call: Call) -> Mishap:
        rng = self._rng
        quick = rng.choice((0.0, rng.uniform(0, 2), PATIENCE))
        match rng.randrange(10):
            case 0:
                return Mishap("lost", seconds=quick)
            case 1 | 2:
                return Mishap("taken unheard", seconds=quick, effective=True)
            case 3 | 4:
                late = rng.choice((rng.uniform(0, 3), rng.uniform(3, 40), rng.uniform(30, 100)))
                return Mishap("late effect", seconds=min(quick, late), late=late)
            case 5 if call.verb == "patch":
                return Mishap("409", 409)
            case 5 | 6:
                return Mishap("429", 429, retry_after=rng.choice((None, 1.0, 5.0)))
            case 7:
                return Mishap("500", 500)
            case 8:
                return Mishap("500 taken", 500, effective=True)
            case _:
                return Mishap("503", 503, seconds=rng.uniform(0, 5), effective=rng.random() < 0.3)

    def _cut_off(self, process: Process) -> Mishap | None:
        now = self._now()
        if now >= max(self.outage_until, self.cut_off.get(process.name, 0.0)):
            return None
        return Mishap("cut off", seconds=self._rng.choice((0.05, 1.0, PATIENCE)))

    def _met(self, what: str) -> None:
        self.count += 1
        self.note(what)


def _weight(resource: Resource) -> float:
    if resource == EVENTS:
        return 0.3
    if resource == LEASES:
        return 0.5
    if resource == VOLUME_MIGRATIONS:
        return 1.0
    return 5.0 if resource == PERSISTENT_VOLUMES else 3.0
