"""
The REST backend with all that it needs to know of its surroundings: names, labels, levers of ours, and who watches.

The API names volumes by uuid and tells of no change by itself. So names come from PersistentVolumes, what is ours from
the journals, and what a volume is refused for, which rests on the whole cluster, is asked again and again, so that
whoever watches hears of it when it changes.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Final, Protocol
from urllib.parse import urlsplit

from common.clock import Clock
from common.config import SettingError
from common.kube.api import KubeApi
from common.logs import Logger
from common.placement import Refusal
from migrator.backends.rest.backend import Names, RestBackend
from migrator.backends.rest.client import RestClient
from migrator.backends.rest.disk_pools import DiskPoolLabels
from migrator.backends.rest.token import TokenFile
from migrator.core.steering.abilities import Abilities, Ability
from migrator.core.steering.cluster import RestCluster
from migrator.held_levers import HeldLevers
from migrator.placements import Placements

SETTLE_SECONDS: Final = 0.05
"""Changes of names within this time are told of together."""
RECHECK_SECONDS: Final = 5.0
"""Pause between two rounds of looking for refusals that changed, at the most."""
SLICE: Final = 20
"""So many volumes are looked at without letting others have their turn."""
WORK_SHARE: Final = 9.0
"""After each slice a wait so many times as long as it took: never more than a tenth of the time is spent on it."""


class RestWiring(Protocol):
    """The settings of the REST backend."""

    @property
    def mayastor_rest_url(self) -> str: ...
    @property
    def mayastor_token_file(self) -> str: ...
    @property
    def mayastor_ca_file(self) -> str: ...
    @property
    def mayastor_group(self) -> str: ...
    @property
    def mayastor_namespace(self) -> str: ...
    @property
    def mayastor_cache_seconds(self) -> float: ...
    @property
    def mayastor_operation_seconds(self) -> float: ...
    @property
    def lever_seconds(self) -> float: ...
    @property
    def lease_duration_seconds(self) -> float: ...


def check_url(url: str) -> None:
    """Raise ValueError, in one line, for what is not the URL of a REST API."""
    parts = urlsplit(url)
    try:
        usable = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if parts.username or parts.password:
        raise ValueError("a user and a password have no place in the URL: use --mayastor-token-file")
    if parts.path.rstrip("/").endswith("/v0"):
        raise ValueError(f"{url!r} ends in /v0, which is added by itself: leave it out")
    if not usable or parts.query or parts.fragment:
        raise ValueError(f"{url!r} is not the URL of a REST API: write it like http://host:8081 or https://host:8080")


@contextlib.asynccontextmanager
async def open_rest(wiring: RestWiring) -> AsyncIterator[RestClient | None]:
    """Open a client of the REST API, if its URL is given. Raises SettingError for a file that cannot be used."""
    if not wiring.mayastor_rest_url:
        yield None
        return
    token, authorities = wiring.mayastor_token_file, wiring.mayastor_ca_file
    if token:
        try:
            TokenFile(token).read()
        except OSError as error:
            raise _unusable("--mayastor-token-file", token, f"cannot read the token: {_why(error)}") from error
        except ValueError as error:
            raise _unusable("--mayastor-token-file", token, "holds no token: expected one line of text") from error
    async with contextlib.AsyncExitStack() as stack:
        try:
            client = await stack.enter_async_context(
                RestClient.connect(
                    wiring.mayastor_rest_url,
                    token_file=token,
                    ca_file=authorities,
                    operation_seconds=wiring.mayastor_operation_seconds,
                )
            )
        except OSError as error:
            why = f"cannot read the certificate authorities: {_why(error)}"
            raise _unusable("--mayastor-ca-file", authorities, why) from error
        yield client


def _unusable(flag: str, path: str, why: str) -> SettingError:
    return SettingError(f"{flag} {path}: {why}; name a file that this service may read")


def _why(error: OSError) -> str:
    return error.strerror or str(error)


class RestParts:
    """The backend and its parts; `run` runs them all."""

    def __init__(
        self,
        wiring: RestWiring,
        client: RestClient,
        api: KubeApi,
        *,
        held: HeldLevers,
        off: Callable[[], frozenset[Ability]],
        may_write: Callable[[], bool],
        placements: Callable[[], Placements],
        pvs_synced: Callable[[], Awaitable[None]],
        clock: Clock,
        rng: random.Random,
        log: Logger,
    ) -> None:
        """
        `held`, `off`: levers that may be pulled, and what is not to be relied upon. `may_write`: whether the lease is
        surely ours. `placements` gives the copy that is told to others; it is asked for when it is needed.
        """
        self._placements = placements
        self._pvs_synced = pvs_synced
        self._clock = clock
        self._pause = min(RECHECK_SECONDS, max(0.2, wiring.mayastor_cache_seconds / 3))
        self._labels = DiskPoolLabels(
            api,
            group=wiring.mayastor_group,
            namespace=wiring.mayastor_namespace,
            clock=clock,
            rng=rng,
            log=log,
            on_change=self.changed,
        )
        self.client = client
        self.backend = RestBackend(
            client,
            clock=clock,
            rng=rng,
            log=log,
            names=Names(
                pv_name=lambda handle: placements().pv_of(handle),
                handle=lambda name: placements().known_handle(name),
            ),
            cache_seconds=wiring.mayastor_cache_seconds,
            operation_seconds=wiring.mayastor_operation_seconds,
            lease_seconds=wiring.lease_duration_seconds,
            lever_seconds=wiring.lever_seconds,
            resource_labels=self._labels.labels,
            levers=lambda: held.active,
            left_behind=lambda: held.left_behind,
            growing=lambda: held.growing,
            off=off,
            may_write=may_write,
        )
        self._due = asyncio.Event()
        self._told: dict[str, tuple[Refusal, ...]] = {}
        self._checked: tuple[RestCluster, Abilities] | None = None
        """What the last check of all volumes rested on when it began."""
        self.named = False
        """Whether every volume has the name of its PersistentVolume."""

    def changed(self) -> None:
        """Names or labels are not what they were."""
        self._due.set()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.backend.run())
            tasks.create_task(self._labels.run())
            tasks.create_task(self._keep_names())
            tasks.create_task(self._recheck())

    async def _keep_names(self) -> None:
        await self._pvs_synced()
        while True:
            self._due.clear()
            self.backend.renamed()
            self.named = True
            await self._due.wait()
            await self._clock.sleep(SETTLE_SECONDS)

    # --- refusals that changed -----------------------------------------------------------------------------------

    async def _recheck(self) -> None:
        while True:
            await self._clock.sleep(self._pause)
            if self._placements().watched:
                await self._recheck_all()
            else:
                self._told.clear()
                self._checked = None

    async def _recheck_all(self) -> None:
        ground = self.backend.cluster, self.backend.abilities
        if self._checked is not None and self._checked[0] is ground[0] and self._checked[1] == ground[1]:
            return  # what people change about a volume is told when they do
        self._checked = ground
        names = list(self.backend.volumes)
        self._told = {name: told for name, told in self._told.items() if name in self.backend.volumes}
        for start in range(0, len(names), SLICE):
            began = self._clock.monotonic()
            self._recheck_some(names[start : start + SLICE])
            await self._clock.sleep((self._clock.monotonic() - began) * WORK_SHARE)

    def _recheck_some(self, names: Iterable[str]) -> None:
        placements = self._placements()
        different: set[str] = set()
        for name in names:
            seen = self.backend.volumes.get(name)
            if seen is None:
                continue
            refusals = self.backend.refusals(placements.subject(name, seen))
            if self._told.get(name) != refusals:
                different.add(name)
                self._told[name] = refusals
        if different:
            placements.note(frozenset(different), frozenset())
