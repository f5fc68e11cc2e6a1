"""
The part of a simulated cluster that does not depend on how Mayastor is spoken to: the Kubernetes objects, and the
witness who sees them change.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from random import Random
from typing import Any, Final

from common.kube.api import PERSISTENT_VOLUMES, STORAGE_POLICIES, VOLUME_ATTACHMENTS, VOLUME_MIGRATIONS, Resource
from sandbox.world.history import Change
from sandbox.world.kinds import CRDS, Kind, Version
from sandbox.world.mayastor import Faults, SimPool, SimVolume
from sandbox.world.status import Cause, StatusError
from sandbox.world.store import Store
from tests.moves.cluster import definitions
from tests.simulation.facts import Somebody, VolumeFact
from tests.simulation.invariants import Witness
from tests.simulation.loop import VirtualLoop
from tests.simulation.process import START, Process

NAMESPACE: Final = "mayastor"
CHECKED: Final = 8
"""One update of so many is held to its schema."""
PV_PREFIX: Final = "pvc-"


class QuickStore(Store):
    """
    A store that holds only some updates to the schema.

    Checking takes most of its time; that what is written is valid is shown by one update in a few as well as by all.
    """

    _unchecked = 0

    def _acceptable(
        self, kind: Kind, version: Version, body: dict[str, Any], name: str, causes: list[Cause], *, is_new: bool
    ) -> dict[str, Any]:
        self._unchecked += 1
        if is_new or causes or version.schema is None or self._unchecked % CHECKED == 0:
            return super()._acceptable(kind, version, body, name, causes, is_new=is_new)
        return {**body, "apiVersion": kind.api_version(kind.storage)}


class World(ABC):
    """The world of one schedule. Volumes are named by their PersistentVolumes throughout."""

    def __init__(self, loop: VirtualLoop, rng: Random) -> None:
        self.loop = loop
        self.rng = rng
        self.store: Store = QuickStore(now=self.now, rng=rng)
        for definition in definitions():
            self.store.create(CRDS, definition)
        self.witness: Witness | None = None
        self.attached: dict[str, float] = {}
        """Since when each volume is attached somewhere; one that is not is missing."""

    def now(self) -> datetime:
        return START + timedelta(seconds=self.loop.time())

    @abstractmethod
    def install(self, pools: Iterable[SimPool], volumes: Iterable[SimVolume]) -> None:
        """Take in a cluster that is as described."""

    def attend(self, witness: Witness) -> None:
        """Let a witness see everything from now on."""
        self.witness = witness
        for name in self.volumes:
            fact = self.volume(name)
            if fact is not None:
                witness.appeared(name, fact)
        self.listen(VOLUME_MIGRATIONS, witness.record_changed)
        self.listen(PERSISTENT_VOLUMES, witness.pv_changed)

    def listen(self, resource: Resource, tell: Callable[[Change], None]) -> None:
        """Tell of every change of a kind, in the moment that it happens."""
        history = self.store.watch(resource).history
        history.listeners.append(lambda: tell(history.changes[-1]))

    # --- what is there -------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def volumes(self) -> Iterable[str]:
        """The names of all volumes."""

    @abstractmethod
    def volume(self, name: str) -> VolumeFact | None:
        """A volume as it truly is; None if there is none."""

    @abstractmethod
    def node_of(self, pool: str) -> str | None:
        """The node of a pool."""

    def policy_cap(self, name: str) -> int | None:
        """How many migrations a policy allows at once."""
        try:
            spec = json.loads(self.store.get(STORAGE_POLICIES, name))["spec"]
        except StatusError:
            return None
        cap: int | None = spec.get("maxConcurrentMigrations")
        return cap

    def has_read(self, process: Process, resource: Resource, name: str, sent: float, answer: bytes) -> None:
        """A process was told of a Kubernetes object."""
        return  # of no interest where volumes are no such objects

    # --- attachments ---------------------------------------------------------------------------------------------

    def attach(self, name: str, node: str | None) -> None:
        """Keep the VolumeAttachment of a volume as its target is."""
        if name in self.attached:
            self.by_user(lambda store: store.delete(VOLUME_ATTACHMENTS, _attachment(name)))
            self.attached.pop(name)
        if node is not None:
            self.by_user(lambda store: store.create(VOLUME_ATTACHMENTS, _attachment_body(name, node)))
            self.attached[name] = self.loop.time() or float("-inf")  # what was so when all began had been so for long

    # --- what befalls it -----------------------------------------------------------------------------------------

    def by(self, actor: Somebody, act: Callable[[], object]) -> None:
        """Let somebody do something."""
        witness = self.witness
        if witness is None:
            act()
            return
        former, witness.acting = witness.acting, actor
        try:
            act()
        except StatusError:
            pass  # a user's mistake, or too late
        finally:
            witness.acting = former

    def by_user(self, act: Callable[[Store], object]) -> None:
        """Let a user do something with the resources."""
        self.by(Somebody.USER, lambda: act(self.store))

    @abstractmethod
    def set_pool_online(self, name: str, *, online: bool) -> None: ...
    @abstractmethod
    def set_node_lost(self, node: str, *, lost: bool) -> None: ...
    @abstractmethod
    def set_target(self, name: str, node: str | None) -> None: ...
    @abstractmethod
    def set_faults(self, faults: Faults) -> None:
        """Say which volumes' rebuilds fail or stall."""

    @abstractmethod
    def fill_pool(self, name: str, share: float) -> None: ...
    @abstractmethod
    def all_well(self) -> None:
        """Bring back what went away, and let nothing more go wrong with the storage."""

    @abstractmethod
    def misplace(self, name: str) -> None:
        """Let the next replica of a volume be put where nobody wants it."""

    @abstractmethod
    def edit_count(self, name: str, count: int) -> None: ...
    @abstractmethod
    def edit_topology(self, name: str, topology: Mapping[str, Any] | None) -> None: ...
    @abstractmethod
    def meddle(self, name: str) -> None:
        """Let a user change something about a volume that has nothing to do with its replicas."""

    @abstractmethod
    def delete_volume(self, name: str) -> None: ...


def _attachment(name: str) -> str:
    return f"csi-{name}"


def _attachment_body(name: str, node: str) -> dict[str, Any]:
    return {
        "apiVersion": VOLUME_ATTACHMENTS.api_version,
        "kind": VOLUME_ATTACHMENTS.kind,
        "metadata": {"name": _attachment(name)},
        "spec": {
            "attacher": "io.openebs.csi-mayastor",
            "nodeName": node,
            "source": {"persistentVolumeName": name},
        },
    }


def handle_of(name: str) -> str:
    """The volumeHandle that belongs to a PersistentVolume's name."""
    return name.removeprefix(PV_PREFIX)
