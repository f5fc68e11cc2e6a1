"""
One at a time: a Kubernetes Lease, held by renewing it.

Nobody's wall clock is trusted, as in client-go: another's lease counts as expired when its record has not changed for
its duration by our own monotonic clock. Our own counts as lost before anyone else could think so, by the same clock
and without asking anybody, since a holder that cannot reach the server is exactly the one that must know.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from common.backoff import Backoff
from common.clock import Clock
from common.kube.api import LEASES, AlreadyExistsError, ConflictError, KubeApi, KubeError, NotFoundError
from common.logs import Logger

RELEASE_SECONDS = 5.0


class _LeaseSpec(msgspec.Struct, frozen=True, rename="camel"):
    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    acquire_time: str | None = None
    renew_time: str | None = None
    lease_transitions: int | None = None


class _Meta(msgspec.Struct, frozen=True, rename="camel"):
    resource_version: str
    annotations: dict[str, str] | None = None


class _Lease(msgspec.Struct, frozen=True):
    metadata: _Meta
    spec: _LeaseSpec = _LeaseSpec()


_lease = msgspec.json.Decoder(_Lease)


class LeaseHolder:
    """
    Takes and keeps one lease while `run` runs, and gives it back when that is cancelled.

    `renew_seconds` after a renewal was sent it counts as lost; a second holder needs `duration_seconds` of silence, and
    the difference is for requests under way. Stop the work before `run`: giving back lets the next one begin at once.
    """

    def __init__(
        self,
        api: KubeApi,
        *,
        name: str,
        namespace: str,
        identity: str,
        clock: Clock,
        rng: random.Random,
        log: Logger,
        duration_seconds: float,
        renew_seconds: float,
        retry_seconds: float,
    ) -> None:
        """Raises ValueError unless duration > renew > retry > 0."""
        if not duration_seconds > renew_seconds > retry_seconds > 0:
            raise ValueError(
                f"lease {name}: duration {duration_seconds:g} s, renewal {renew_seconds:g} s and retry "
                f"{retry_seconds:g} s must each be longer than the next, and the last above 0"
            )
        self._api = api
        self._name = name
        self._namespace = namespace
        self.identity = identity
        self._clock = clock
        self._rng = rng
        self._log = log.bind(lease=name, identity=identity)
        self._duration = duration_seconds
        self._renew = renew_seconds
        self._retry = retry_seconds
        self._backoff = Backoff(rng, first_seconds=retry_seconds, cap_seconds=max(retry_seconds, duration_seconds))
        self._observed: _Lease | None = None
        self._observed_at = 0.0
        self._annotations: Mapping[str, str] = {}
        self._held_until: float | None = None
        self._terms = 0
        self._interrupted = True
        """Whether somebody else may have held it since we did."""
        self._acquired = asyncio.Event()
        self._lost = asyncio.Event()

    @property
    def held(self) -> bool:
        """Whether it is surely ours at this moment."""
        return self._held_until is not None and self._clock.monotonic() < self._held_until

    @property
    def holder(self) -> str:
        """Whoever held it when it was last seen; "" for nobody."""
        return (self._observed.spec.holder_identity or "") if self._observed is not None else ""

    @property
    def annotations(self) -> Mapping[str, str]:
        """Its annotations when it was last seen; whoever waits for it sees them as often as the holder."""
        return self._annotations

    async def annotate(self, key: str, change: Callable[[str], str]) -> str:
        """
        Change one annotation, from what it is now ("" for none), and return what was stored.

        Raises ConflictError if it is another's, or somebody wrote to it meanwhile, and any other KubeError.
        """
        found = _decoded(await self._api.get(LEASES, self._name, self._namespace))
        if found.spec.holder_identity != self.identity:
            raise ConflictError(f"lease {self._name} is {found.spec.holder_identity or 'nobody'}'s, not ours")
        value = change((found.metadata.annotations or {}).get(key, ""))
        meta = {"resourceVersion": found.metadata.resource_version, "annotations": {key: value}}
        after = _decoded(await self._api.patch(LEASES, self._name, {"metadata": meta}, self._namespace))
        # Not observed: a renewal must rest on what a renewal saw, and meets a conflict where this wrote in between.
        self._annotations = after.metadata.annotations or {}
        return self._annotations.get(key, "")

    @property
    def term(self) -> Term:
        """The time of holding it that goes on now, or was the last."""
        return Term(self, self._terms)

    async def wait_held(self) -> None:
        """Wait until it is ours."""
        while not self.held:
            self._acquired.clear()
            await self._acquired.wait()

    async def wait_lost(self) -> None:
        """Wait until it is surely ours no longer, or was not for a while; returns at once if it is not."""
        term = self._terms
        while (
            self._terms == term
            and self._held_until is not None
            and (left := self._held_until - self._clock.monotonic()) > 0
        ):
            waits = (asyncio.ensure_future(self._clock.sleep(left)), asyncio.ensure_future(self._lost.wait()))
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()

    async def run(self) -> None:
        """Take it, keep it, take it again when it was lost, forever; on cancellation give it back."""
        try:
            while True:
                await self._clock.sleep(await self._attempt())
        finally:
            await self._release()

    async def _attempt(self) -> float:
        """Try once; return the wait before the next try."""
        was_held = self.held
        try:
            async with asyncio.timeout(self._renew):
                ours = await self._acquire_or_renew()
        except (ConflictError, AlreadyExistsError, NotFoundError) as error:
            self._log.info("lease changed under us", error=str(error))
            self._lose()
            ours = False
        except (KubeError, TimeoutError) as error:
            wait = self._backoff.next_seconds()
            self._log.warning("lease not renewed", error=str(error) or "no answer in time", held=self.held)
            return min(wait, self._retry) if self.held else wait
        self._backoff.reset()
        if ours and not was_held:
            self._log.info("lease acquired")
        elif was_held and not ours:
            self._log.warning("lease lost", holder=self.holder)
        # Those who wait in vain come at different moments, so that they do not all grab at once.
        return self._retry if ours else self._retry * self._rng.uniform(1.0, 1.5)

    async def _acquire_or_renew(self) -> bool:
        if self.held:
            # Somebody else may have written to it, a label perhaps; what that means is seen by reading it again.
            with contextlib.suppress(ConflictError, NotFoundError):
                return await self._claim()
        self._observe(await self._read())
        if self.holder not in {"", self.identity} and not self._expired():
            self._lose()
            return False
        return await self._claim()

    async def _claim(self) -> bool:
        # Counted from before the request: others count from when they see its effect, which is later.
        sent = self._clock.monotonic()
        self._observe(await self._write(self._record()))
        if self._interrupted:
            self._terms += 1
            self._interrupted = False
            self._lost.set()  # for those who wait for the end of the term before and were never told of it
        self._held_until = sent + self._renew
        self._lost.clear()
        self._acquired.set()
        return True

    def _lose(self) -> None:
        self._held_until = None
        self._interrupted = True
        self._acquired.clear()
        self._lost.set()

    async def _read(self) -> _Lease | None:
        try:
            return _decoded(await self._api.get(LEASES, self._name, self._namespace))
        except NotFoundError:
            return None

    async def _write(self, record: dict[str, Any]) -> _Lease:
        metadata: dict[str, Any] = {"name": self._name, "namespace": self._namespace}
        if self._observed is None:
            body = {"metadata": metadata, "spec": record}
            return _decoded(await self._api.create(LEASES, body, self._namespace))
        precondition = {"resourceVersion": self._observed.metadata.resource_version}
        body = {"metadata": precondition, "spec": record}
        return _decoded(await self._api.patch(LEASES, self._name, body, self._namespace))

    def _record(self) -> dict[str, Any]:
        now = micro_time(self._clock.now())
        # Whole seconds are all a Lease can say; rounded up, others wait longer and never shorter.
        renewal: dict[str, Any] = {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": math.ceil(self._duration),
            "renewTime": now,
        }
        if self._observed is None:
            return {**renewal, "acquireTime": now, "leaseTransitions": 0}
        if self.holder == self.identity:
            return renewal
        return {
            **renewal,
            "acquireTime": now,
            "leaseTransitions": (self._observed.spec.lease_transitions or 0) + 1,
        }

    def _observe(self, lease: _Lease | None) -> None:
        """Note what is there, and when it was first seen to be so."""
        if lease is None or self._observed is None or lease.spec != self._observed.spec:
            self._observed_at = self._clock.monotonic()
        self._observed = lease
        self._annotations = (lease.metadata.annotations or {}) if lease is not None else {}
        if self.holder != self.identity:
            self._interrupted = True

    def _expired(self) -> bool:
        theirs = (self._observed.spec.lease_duration_seconds if self._observed is not None else None) or 0
        return self._clock.monotonic() >= self._observed_at + max(float(theirs), self._duration)

    async def _release(self) -> None:
        held = self.held
        self._lose()
        if not held or self.holder != self.identity:
            return
        record = {"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": micro_time(self._clock.now())}
        with contextlib.suppress(KubeError, TimeoutError):
            async with asyncio.timeout(RELEASE_SECONDS):
                self._observe(await self._write(record))
                self._log.info("lease given back")
                return
        self._log.info("lease not given back; it expires by itself")


@dataclass(frozen=True, slots=True)
class Term:
    """
    One time of holding a lease.

    Whoever slept through the end of it must not go on when the lease is theirs again: meanwhile another may have led.
    """

    lease: LeaseHolder
    number: int

    @property
    def held(self) -> bool:
        """Whether the lease is surely ours at this moment, and was all the time since the term began."""
        return self.lease.held and self.lease.term.number == self.number


def _decoded(raw: msgspec.Raw) -> _Lease:
    try:
        return _lease.decode(raw)
    except msgspec.MsgspecError as error:
        raise KubeError(f"a Lease that cannot be read: {error}") from error


def micro_time(moment: datetime) -> str:
    """As Kubernetes writes a MicroTime: always six digits, or the server refuses it."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
