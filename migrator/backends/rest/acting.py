"""
The writes: one replica more or less while levers leave Mayastor no choice, and letting levers go.

Levers are pulled for one migration at a time, and only for the moment of one call. What they are to bring about is
looked at afresh once they are pulled, because this API has no preconditions: the look right before the call is the only
one there is. Whatever happens then, they are let go, also where the work is cancelled; a lever of which that is not
surely known is told of.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

from common.clock import Clock, within
from common.logs import Logger
from common.placement import Refusal
from migrator.backends.base import BackendError, Result
from migrator.backends.rest.answers import Meaning, RestError
from migrator.backends.rest.client import RestClient
from migrator.backends.rest.facts import NexusIndex, rest_volume, volume_seen
from migrator.backends.rest.pulling import MayWrite, Pulled, Puller, let_go, named, still_pulled, taken_over, through
from migrator.backends.rest.survey import LatelyGrown, Survey, Surveyor
from migrator.core.model import Outcome, Purpose, ReleaseLevers, SetReplicaCount, VolumeSeen
from migrator.core.steering.abilities import Abilities
from migrator.core.steering.adding import plan_add
from migrator.core.steering.cluster import RestCluster, RestVolume
from migrator.core.steering.feasibility import refusals_of_volume
from migrator.core.steering.levers import Lever, LeverSet, in_place, missing, strays
from migrator.core.steering.removing import plan_removal, plan_reverse

PULLED_BY: Final = 0.4
"""By this share of their time the levers are pulled and seen to be, or it is left."""
CALLED_BY: Final = 0.8
"""By this share of it the call is answered, or nobody knows what came of it; the rest is for letting go."""
DECIDED_SECONDS: Final = 0.5
"""Pause between two looks whether a call that was given up has been decided."""
NOT_LEADING: Final = "the lease is not surely ours any more"
STILL_CLEARING: Final = "levers of a leader before are still being looked for"

_PLANS: Final[Mapping[Purpose, Callable[[RestCluster, RestVolume, str, Abilities, str], LeverSet | Refusal]]] = {
    Purpose.SCALE_UP: plan_add,
    Purpose.SCALE_DOWN: plan_removal,
    Purpose.REMOVE_NEW: plan_reverse,
}


class Actor:
    """Makes the writes."""

    def __init__(
        self,
        client: RestClient,
        surveyor: Surveyor,
        puller: Puller,
        grown: LatelyGrown,
        *,
        clock: Clock,
        log: Logger,
        abilities: Callable[[], Abilities],
        may_write: MayWrite,
        held: Callable[[], Iterable[Lever]],
        lever_seconds: float,
        copy_age: Callable[[], float],
        oldest_copy: float,
        on_levers: Callable[[], object],
    ) -> None:
        """
        `held`: levers of migrations under way, as their journals have them. `lever_seconds`: so long levers are pulled
        at the most, letting them go included. `copy_age`: seconds since all volumes were seen; if that was longer than
        `oldest_copy` ago nothing is pulled. `on_levers` is called when `pulled` changes.
        """
        self._client = client
        self._surveyor = surveyor
        self._puller = puller
        self._grown = grown
        self._clock = clock
        self._log = log
        self._abilities = abilities
        self._may_write = may_write
        self._held = held
        self._lever_seconds = lever_seconds
        self._copy_age = copy_age
        self._oldest_copy = oldest_copy
        self._on_levers = on_levers
        self.turn = asyncio.Lock()
        """Whoever has it may pull levers and let them go."""
        self.may_pull = False
        """False as long as levers of a leader before may still be about."""
        self.pulled: tuple[Lever, ...] = ()
        """Those that this process has pulled, or is about to."""

    # --- one replica more or less --------------------------------------------------------------------------------

    async def set_replica_count(self, write: SetReplicaCount, seen: VolumeSeen) -> Result:
        """Make the call, with its levers pulled around it."""
        waits = self.turn.locked()
        async with self.turn:
            if write.levers and not self.may_pull:
                return Result(Outcome.BUSY, STILL_CLEARING)
            if not self._may_write():
                return Result(Outcome.BUSY, NOT_LEADING)
            pulled, began = Pulled(), self._clock.monotonic()
            self._show_pulled(write.levers)
            left: frozenset[Lever] = frozenset()
            try:
                if write.levers:
                    result = await self._steered(write, seen, pulled, began, look_first=waits)
                else:
                    result = await self._unsteered(write, seen, pulled)
            finally:
                until = max(began, self._clock.monotonic() - CALLED_BY * self._lever_seconds) + self._lever_seconds
                try:
                    left = await through(self._puller.let_all_go(pulled, until))
                finally:
                    self._show_pulled(())
        if not left:
            return result
        self._log.warning("levers may still be pulled", volume=seen.name, levers=named(left))
        return replace(result, levers_left=True, detail=_joined(result.detail, f"may still be there: {named(left)}"))

    async def _unsteered(self, write: SetReplicaCount, seen: VolumeSeen, pulled: Pulled) -> Result:
        refused = await self._look(write, seen, pulled)
        if refused is None and not self._may_write():
            refused = Result(Outcome.BUSY, NOT_LEADING)
        return refused or await self._call(write, seen)

    async def _steered(
        self, write: SetReplicaCount, seen: VolumeSeen, pulled: Pulled, began: float, *, look_first: bool
    ) -> Result:
        until = began + PULLED_BY * self._lever_seconds
        try:
            refused = await self._prepare(write, seen, pulled, until, look_first=look_first)
        except TimeoutError:
            refused = Result(Outcome.BUSY, f"not pulled and seen within {PULLED_BY * self._lever_seconds:g} s")
        if refused is None and not self._may_write():
            refused = Result(Outcome.BUSY, NOT_LEADING)
        if refused is not None:
            return refused
        until = began + CALLED_BY * self._lever_seconds
        seconds = until - self._clock.monotonic()
        try:
            # Waited for even where the work is cancelled: until it is answered, the levers decide what it does.
            result = await through(within(self._clock, seconds, self._call(write, seen)))
        except TimeoutError:
            return Result(Outcome.UNKNOWN, f"no answer within {seconds:g} s, and then the levers had to be let go")
        if result.outcome is Outcome.UNKNOWN:
            await through(self._until_decided(write, seen, until))
        return result

    async def _until_decided(self, write: SetReplicaCount, seen: VolumeSeen, until: float) -> None:
        """
        Keep the levers pulled while a call that was given up may yet be decided, as long as they may be.

        It is decided when the count is seen changed: the specs in answers are never old.
        """
        while (seconds := until - self._clock.monotonic()) > 0:
            await self._clock.sleep(min(DECIDED_SECONDS, seconds))
            with contextlib.suppress(RestError, TimeoutError):
                left = max(0.0, until - self._clock.monotonic())
                found = await within(self._clock, left, self._client.volume(seen.uid))
                if found.spec.num_replicas == write.replica_count:
                    return

    async def _call(self, write: SetReplicaCount, seen: VolumeSeen) -> Result:
        self._grown.asked(seen.uid, write)
        result = await self._asked(write, seen)
        self._grown.answered(seen.uid, write, result.outcome)
        return result

    async def _asked(self, write: SetReplicaCount, seen: VolumeSeen) -> Result:
        try:
            answer = await self._client.set_replica_count(seen.uid, write.replica_count)
        except RestError as error:
            if error.meaning is Meaning.DONE_ALREADY:
                # A moment ago it had not: somebody set it, or a call that was given up took effect after all.
                return Result(Outcome.CONFLICT, f"{error}: it has that count already")
            return Result(error.meaning.outcome, str(error))
        after = volume_seen(rest_volume(answer, NexusIndex(())), seen.name, published=True)
        if after.spec.replica_count != write.replica_count:
            return Result(Outcome.UNKNOWN, f"the answer has {after.spec.replica_count} replicas wanted", after.spec)
        misplaced = _misplaced(write, seen, after)
        return Result(Outcome.ALTERED if misplaced else Outcome.DONE, misplaced, after.spec)

    # --- pulling and looking -------------------------------------------------------------------------------------

    async def _prepare(
        self, write: SetReplicaCount, seen: VolumeSeen, pulled: Pulled, until: float, *, look_first: bool
    ) -> Result | None:
        """Pull and look; return why the call is not to be made, if it is not. Raises TimeoutError."""
        if look_first:
            # What was read before the wait is old: nothing is pulled over what somebody else has set since.
            refused = await self._in_time(until, self._look(write, seen, pulled, before=True))
            if refused is not None:
                return refused
        for lever in write.levers:
            if not self._may_write():
                return Result(Outcome.BUSY, NOT_LEADING)
            error = await self._puller.pull(lever, pulled, self._left(until))
            if error is not None:
                return _not_steered(error)
        return await self._in_time(until, self._look(write, seen, pulled))

    async def _in_time(self, until: float, look: Coroutine[Any, Any, Result | None]) -> Result | None:
        return await within(self._clock, max(0.0, until - self._clock.monotonic()), look)

    def _left(self, until: float) -> float:
        """Tell how much time there is. Raises TimeoutError if there is none."""
        seconds = until - self._clock.monotonic()
        if seconds <= 0:
            raise TimeoutError
        return seconds

    async def _look(
        self, write: SetReplicaCount, seen: VolumeSeen, pulled: Pulled, *, before: bool = False
    ) -> Result | None:
        """
        Look afresh whether the call would do what it is meant to, `before` the levers are pulled or once they are.

        Returns why it is not to be made, if it is not.
        """
        if write.levers and self._copy_age() > self._oldest_copy:
            return Result(Outcome.BUSY, f"the other volumes were seen {self._copy_age():.0f} s ago, which is too long")
        try:
            survey = await self._surveyor.look(seen.name)
        except BackendError as error:
            return Result(Outcome.BUSY, str(error))
        others = self._others(survey, write, pulled)
        if others:
            return Result(Outcome.BUSY, f"levers of another migration are still there: {named(others)}")
        why = self._otherwise(survey, write, seen, () if before else write.levers)
        return Result(Outcome.CONFLICT, why) if why else None

    def _others(self, survey: Survey, write: SetReplicaCount, pulled: Pulled) -> tuple[Lever, ...]:
        """
        List levers of ours that are pulled and not this write's: they would decide as well.

        Those that no journal has are let go together with this write's: nobody else would.
        """
        held, whole = tuple(self._held()), survey.as_read
        stray = strays(whole, (*held, *write.levers))
        if self._may_write():
            pulled.levers.extend(stray)
        mine = set(write.levers)
        return (*stray, *(each for each in held if each not in mine and in_place(each, whole.pools, whole.nodes)))

    def _otherwise(self, survey: Survey, write: SetReplicaCount, seen: VolumeSeen, levers: tuple[Lever, ...]) -> str:
        """Say what is not as it was when this write was decided, and `levers` pulled; empty: nothing."""
        volume = survey.volume
        if volume is None or volume.uuid != seen.uid:
            return f"there is no volume {seen.name} any more"
        change = 1 if write.purpose is Purpose.SCALE_UP else -1
        if volume.replica_count + change != write.replica_count:
            return f"{volume.replica_count} replicas are wanted, not {write.replica_count - change}"
        if write.purpose is Purpose.SCALE_DOWN and volume.snapshots:
            return "a snapshot was made, which would go with the source"
        lacking = missing(survey.as_read, levers)
        if lacking:
            return f"not seen pulled: {named(lacking)}"
        if write.purpose is Purpose.SCALE_UP:
            refused = refusals_of_volume(survey.cluster, volume)
            if refused:
                return f"{refused[0].reason}: {refused[0].detail}"
        plan = self._plan(survey, volume, write)
        if isinstance(plan, Refusal):
            return f"{plan.reason}: {plan.detail}"
        if plan.levers != write.levers:
            return f"other levers would be needed now: {named(plan.levers) or 'none'}"
        return ""

    def _plan(self, survey: Survey, volume: RestVolume, write: SetReplicaCount) -> LeverSet | Refusal:
        plan = _PLANS.get(write.purpose)
        if plan is None:
            raise ValueError(f"{write.purpose} is no purpose of a replica count")
        return plan(survey.cluster, volume, write.concerns, self._abilities(), write.mark)

    def _show_pulled(self, levers: tuple[Lever, ...]) -> None:
        if levers != self.pulled:
            self.pulled = levers
            self._on_levers()

    # --- letting go ----------------------------------------------------------------------------------------------

    async def release(self, write: ReleaseLevers) -> Result:
        """Let levers go, as far as they are as a lever of ours left them."""
        async with self.turn:
            try:
                result = await within(self._clock, self._lever_seconds, self._release(write.levers))
            except TimeoutError:
                result = Result(Outcome.UNKNOWN, f"not done within {self._lever_seconds:g} s")
            except RestError as error:
                result = Result(Outcome.UNKNOWN, str(error))
        return replace(result, levers_left=result.outcome is not Outcome.DONE)

    async def _release(self, levers: tuple[Lever, ...]) -> Result:
        before = await self._surveyor.things()
        told = taken_over(levers, before.pools)
        failed: list[RestError] = []
        present = still_pulled(levers, before)
        for lever in present:
            if not self._may_write():
                return Result(Outcome.UNKNOWN, _joined(*told, NOT_LEADING))
            try:
                await let_go(self._client, lever)
            except RestError as error:
                failed.append(error)
        left = still_pulled(levers, await self._surveyor.things()) if present else ()
        if not left and not failed:
            return Result(Outcome.DONE, _joined(*told))
        refused = bool(failed) and all(error.meaning.outcome is Outcome.REFUSED for error in failed)
        still = f"still there: {named(left)}" if left else ""
        return Result(
            Outcome.REFUSED if refused else Outcome.UNKNOWN, _joined(*told, still, *(str(error) for error in failed))
        )


def _misplaced(write: SetReplicaCount, before: VolumeSeen, after: VolumeSeen) -> str:
    """Say where the new replica is, if the answer shows it, and not where it was steered to."""
    known = {replica.identity for replica in before.replicas}
    new = [replica.pool for replica in after.replicas if replica.identity not in known]
    if write.purpose is not Purpose.SCALE_UP or not new or write.concerns in new:
        return ""
    return f"it came to {', '.join(new)}, not to {write.concerns}"


def _not_steered(error: RestError) -> Result:
    """What to answer where a lever could not be pulled: the call itself was not made, whatever became of the lever."""
    told = f"not steered: {error}"
    if error.meaning is Meaning.DONE_ALREADY:
        return Result(Outcome.CONFLICT, told)  # somebody else has set it since the last look
    return Result(Outcome.BUSY if error.meaning.outcome_unknown else error.meaning.outcome, told)


def _joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part)
