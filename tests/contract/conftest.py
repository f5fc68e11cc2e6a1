"""
Every test of the contract runs against each implementation: the store in process, the same behind HTTP, and
kube-apiserver.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from sandbox.real.control_plane import ControlPlane
from tests.contract.clusters import CRDS, Cluster, direct_cluster, emulated_cluster, real_cluster
from tests.real import require_real


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def control_plane() -> AsyncIterator[ControlPlane]:
    """A kube-apiserver with all the definitions that the tests use."""
    require_real("etcd", "kube-apiserver")
    async with ControlPlane() as running:
        await running.install_crds(CRDS)
        yield running


@pytest.fixture(params=["direct", "emulator", "kube-apiserver"])
def implementation(request: pytest.FixtureRequest) -> tuple[str, ControlPlane | None]:
    """Name an implementation; the real one is started, or the test skipped, only where it is wanted."""
    if request.param != "kube-apiserver":
        return request.param, None
    running: ControlPlane = request.getfixturevalue("control_plane")
    return request.param, running


@pytest_asyncio.fixture
async def cluster(implementation: tuple[str, ControlPlane | None], tmp_path: Path) -> AsyncIterator[Cluster]:
    """One implementation, with a fresh namespace for the test."""
    kind, running = implementation
    if running is not None:
        opened = real_cluster(running)
    else:
        opened = direct_cluster() if kind == "direct" else emulated_cluster(tmp_path)
    async with opened as cluster:
        yield cluster
