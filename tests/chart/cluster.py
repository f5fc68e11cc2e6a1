"""
A connection to a real API server, for what the product's own interface cannot say: strictness, dry runs, tokens.
"""

import contextlib
import json
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from tests.chart.chart import Object

PLACES = {
    "Deployment": "apis/apps/v1",
    "Service": "api/v1",
    "ServiceAccount": "api/v1",
    "NetworkPolicy": "apis/networking.k8s.io/v1",
    "PodDisruptionBudget": "apis/policy/v1",
    "Role": "apis/rbac.authorization.k8s.io/v1",
    "RoleBinding": "apis/rbac.authorization.k8s.io/v1",
    "ClusterRole": "apis/rbac.authorization.k8s.io/v1",
    "ClusterRoleBinding": "apis/rbac.authorization.k8s.io/v1",
    "CustomResourceDefinition": "apis/apiextensions.k8s.io/v1",
    "StoragePolicy": "apis/storage.billyronks.io/v1",
    "Namespace": "api/v1",
}
PLURALS = {"NetworkPolicy": "networkpolicies", "StoragePolicy": "storagepolicies"}


@dataclass(frozen=True)
class Cluster:
    """A connection to a real API server."""

    session: aiohttp.ClientSession
    kubeconfig: Path

    async def create(self, item: Object, *, dry_run: bool = True) -> tuple[int, Any]:
        """Send an object; unknown fields are refused, not dropped."""
        kind, namespace = item["kind"], item["metadata"].get("namespace")
        scope = f"/namespaces/{namespace}" if namespace else ""
        params = {"fieldValidation": "Strict"} | ({"dryRun": "All"} if dry_run else {})
        path = f"/{PLACES[kind]}{scope}/{PLURALS.get(kind, f'{kind.lower()}s')}"
        async with self.session.post(path, json=item, params=params) as answer:
            return answer.status, await answer.json()

    async def make(self, *items: Object) -> None:
        """Create objects for good."""
        for item in items:
            status, answer = await self.create(item, dry_run=False)
            assert status == 201, answer

    async def token(self, namespace: str, account: str) -> str:
        """A token such as a pod of that service account has."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
        async with self.session.post(path, json=request) as answer:
            assert answer.status == 201, await answer.text()
            token: str = (await answer.json())["status"]["token"]
            return token


def namespace(name: str) -> Object:
    """A namespace."""
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def read(kubeconfig: Path) -> Any:
    """A kubeconfig of the sandbox, which writes JSON."""
    return json.loads(kubeconfig.read_text())


@contextlib.asynccontextmanager
async def connect(kubeconfig: Path) -> AsyncIterator[Cluster]:
    """Connect as whom a kubeconfig of the sandbox's control plane names."""
    config = read(kubeconfig)
    trust = ssl.create_default_context(cafile=config["clusters"][0]["cluster"]["certificate-authority"])
    async with aiohttp.ClientSession(
        base_url=config["clusters"][0]["cluster"]["server"],
        headers={"Authorization": f"Bearer {config['users'][0]['user']['token']}"},
        connector=aiohttp.TCPConnector(ssl=trust),
        timeout=aiohttp.ClientTimeout(total=20),
    ) as session:
        yield Cluster(session, kubeconfig)


def kubeconfig_with(token: str, like: Path, path: Path) -> Path:
    """Write a kubeconfig for another user of the same cluster."""
    config = read(like)
    config["users"][0]["user"] = {"token": token}
    path.write_text(json.dumps(config))
    return path
