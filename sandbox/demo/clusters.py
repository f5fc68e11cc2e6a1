"""
Two clusters to run the same scenario on: one in a box, made of nothing but this project, and one of real components.

Both give the same two things, a kubeconfig and the address of a Prometheus, and both let Prometheus be taken away.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from random import Random
from typing import Final

from common.clock import Clock
from sandbox.fronts.exporter import Exporter
from sandbox.fronts.kube import KubeFront
from sandbox.fronts.prometheus import PrometheusFront
from sandbox.fronts.samples import SimulatedSamples
from sandbox.real.control_plane import ControlPlane
from sandbox.real.process import Process, answers
from sandbox.real.prometheus import Prometheus, ScrapeTarget
from sandbox.world.applications import Applications
from sandbox.world.store import Store

ROOT: Final = Path(__file__).resolve().parents[2]
OUR_CRDS: Final = ROOT / "helm" / "couchestor" / "crds"
CRDS: Final = (OUR_CRDS, ROOT / "sandbox" / "crds")
REST_CRDS: Final = (OUR_CRDS, ROOT / "sandbox" / "crds" / "diskpools.yaml")
"""Of a cluster whose Mayastor has its volumes behind its REST API: no MayastorVolume is served there."""
SCRAPE: Final = timedelta(milliseconds=250)


class ClusterKind(StrEnum):
    """What a demo runs on."""

    BOX = "box"
    REAL = "real"


@dataclass(frozen=True, slots=True)
class KubernetesApi:
    """A Kubernetes API server that runs."""

    url: str
    kubeconfig: Path
    description: str
    processes: tuple[Process, ...] = ()


@dataclass(frozen=True, slots=True)
class Metrics:
    """A Prometheus that runs, and can be stopped and started again at the same address."""

    url: str
    kill: Callable[[], Awaitable[None]]
    start: Callable[[], Awaitable[None]]
    description: str
    processes: tuple[Process, ...] = ()

    async def answers(self) -> bool:
        """Whether it does, at this moment."""
        try:
            return await answers(f"{self.url}/-/ready")
        except (OSError, TimeoutError):
            return False


@contextlib.asynccontextmanager
async def kubernetes(
    kind: ClusterKind, directory: Path, clock: Clock, rng: Random, crds: Sequence[Path] = CRDS
) -> AsyncIterator[KubernetesApi]:
    """Run an API server that serves our resources and Mayastor's."""
    if kind is ClusterKind.REAL:
        async with ControlPlane() as plane:
            await plane.install_crds(crds)
            yield KubernetesApi(plane.url, plane.kubeconfig, "kube-apiserver and etcd", (plane.api_server, plane.etcd))
        return
    store = Store(now=clock.now, rng=rng, crds=crds)
    async with KubeFront(store) as front:
        kubeconfig = front.write_kubeconfig(directory / "kubeconfig")
        yield KubernetesApi(front.url, kubeconfig, "an emulated API server")


@contextlib.asynccontextmanager
async def metrics(kind: ClusterKind, clock: Clock, applications: Applications) -> AsyncIterator[Metrics]:
    """Run a Prometheus that knows the applications' I/O."""
    if kind is ClusterKind.REAL:
        async with Exporter(applications) as exporter:
            targets = [ScrapeTarget("mayastor", exporter.address)]
            async with Prometheus(targets, scrape_interval=SCRAPE) as server:
                yield Metrics(
                    server.url,
                    server.process.kill,
                    server.start,
                    "Prometheus, scraping the simulator",
                    (server.process,),
                )
        return
    async with PrometheusFront(SimulatedSamples(applications), clock=clock) as front:
        yield Metrics(front.url, front.stop, front.start, "an emulated Prometheus")
