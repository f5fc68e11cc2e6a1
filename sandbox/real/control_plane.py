"""
A real Kubernetes API on loopback: etcd and kube-apiserver, and nothing else of a cluster.

No controller and no scheduler runs, so only what the API server itself does happens: validation, pruning, defaults,
CEL, RBAC, watches, preconditions. That is the part that we lean on and the part that an imitation gets wrong.

The idea that keeps it small: the API server makes the only key there is. It signs its own serving certificate on its
first start (and finds it again on the next), that certificate is what clients trust, and the same key signs service
account tokens, because the server writes the file before it reads the option. So no openssl and no CA is needed here.
People are lines of a static token file, read at start; service accounts get tokens of the real kind at any time.
"""

import asyncio
import json
import secrets
import ssl
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from sandbox.real.process import POLL_SECONDS, Process, Program, answers, free_port
from sandbox.real.stored import Stored
from sandbox.real.tools import tool

HOST = "127.0.0.1"
CALL_SECONDS = 10.0
FIELD_MANAGER = "couchestor-sandbox"


class ControlPlaneError(Exception):
    """The API server refused something that the sandbox asked of it, or did not do it in time."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a token stands for, as RBAC sees it."""

    user: str
    groups: tuple[str, ...] = ()


ADMIN = Identity("couchestor-sandbox-admin", ("system:masters",))


class ControlPlane(Stored):
    """etcd and kube-apiserver. `async with` starts them and in the end stops them and removes what they stored.

    `stop` and `start` in between give the same addresses, certificates, tokens and objects, as a restart would;
    `etcd` and `api_server` can also be stopped, killed or frozen one by one.
    """

    def __init__(self, identities: Sequence[Identity] = (), *, directory: Path | None = None) -> None:
        """`identities` get a token besides the admin; `directory` is kept at the end, a temporary one is not.

        Raises ToolMissingError where `make tools` has not been run.
        """
        for name in ("etcd", "kube-apiserver"):
            tool(name)  # one that is missing is told before anything is made on disk
        super().__init__(directory, prefix="couchestor-kube-")
        self.url = f"https://{HOST}:{free_port()}"
        self.certificate = self.directory / "certificates" / "apiserver.crt"
        self._tokens = {identity: secrets.token_urlsafe(24) for identity in (ADMIN, *identities)}
        etcd_url = f"http://{HOST}:{free_port()}"
        self.etcd = Process(self._etcd(etcd_url))
        self.api_server = Process(self._api_server(etcd_url))

    @property
    def kubeconfig(self) -> Path:
        """A kubeconfig that may do everything."""
        return self.kubeconfig_for(ADMIN)

    def kubeconfig_for(self, identity: Identity) -> Path:
        """A kubeconfig for one of the identities given at the beginning. Raises KeyError for another."""
        return self._write_kubeconfig(identity.user, self._tokens[identity])

    async def service_account_kubeconfig(self, namespace: str, name: str) -> Path:
        """A kubeconfig for a service account that exists, with a token as a pod would have it (valid for a day)."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        request = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": 86_400},
        }
        async with self._client() as client:
            answer = await _call(client, "POST", path, json.dumps(request), "application/json")
        return self._write_kubeconfig(f"{namespace}.{name}", answer["status"]["token"])

    async def start(self) -> None:
        """Start both and wait until the API is ready and its own namespaces are there.

        Raises ProcessError or ControlPlaneError, with nothing left running.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        self._write_private("tokens.csv", "".join(_token_line(i, token) for i, token in self._tokens.items()))
        try:
            await self.etcd.start()
            await self.api_server.start()
            async with self._client() as client:
                # /readyz does not wait for these, and the first object of a hasty client would be refused.
                for namespace in ("default", "kube-system"):
                    await _until_served(client, f"/api/v1/namespaces/{namespace}", deadline_seconds=15.0)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop both, the API server first so that it does not complain about the other; what they stored stays."""
        try:
            await self.api_server.stop()
        finally:
            await self.etcd.stop()

    async def install_crds(self, manifests: Iterable[Path], *, deadline_seconds: float = 20.0) -> None:
        """Apply every CustomResourceDefinition in YAML files (or folders of them), and wait until they are served.

        Applying one again is harmless. Raises ControlPlaneError with the API server's own words if it refuses one.
        """
        definitions = [definition for path in manifests for definition in _definitions(path)]
        async with self._client() as client:
            for definition in definitions:
                path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{definition['metadata']['name']}"
                apply = f"{path}?fieldManager={FIELD_MANAGER}&force=true"
                await _call(client, "PATCH", apply, json.dumps(definition), "application/apply-patch+yaml")
            for definition in definitions:
                for path in _served_paths(definition):
                    await _until_served(client, path, deadline_seconds)
                for path in _schema_paths(definition):
                    kind = definition["spec"]["names"]["kind"]
                    await _until_served(client, path, deadline_seconds, naming=f'"{kind}"')

    def _etcd(self, url: str) -> Program:
        async def ready() -> bool:
            return await answers(f"{url}/health")

        return Program(
            name="etcd",
            argv=(
                str(tool("etcd")),
                f"--data-dir={self.directory / 'etcd'}",
                f"--listen-client-urls={url}",
                f"--advertise-client-urls={url}",
                f"--listen-peer-urls=http://{HOST}:0",  # a peer it has not; without this it would take 2380
                "--unsafe-no-fsync",  # a crash of the process loses nothing so, only one of the machine
                "--log-level=warn",
            ),
            log=self.directory / "etcd.log",
            ready=ready,
        )

    def _api_server(self, etcd_url: str) -> Program:
        async def ready() -> bool:
            return await answers(f"{self.url}/readyz", token=self._tokens[ADMIN], trust=self._trust())

        key = self.certificate.with_suffix(".key")
        return Program(
            name="kube-apiserver",
            argv=(
                str(tool("kube-apiserver")),
                f"--etcd-servers={etcd_url}",
                f"--bind-address={HOST}",
                f"--advertise-address={HOST}",
                f"--secure-port={self.url.rpartition(':')[2]}",
                f"--cert-dir={self.certificate.parent}",
                f"--token-auth-file={self.directory / 'tokens.csv'}",
                "--authorization-mode=RBAC",
                "--anonymous-auth=false",
                "--service-account-issuer=https://kubernetes.default.svc",
                f"--service-account-signing-key-file={key}",
                f"--service-account-key-file={key}",
                "--service-cluster-ip-range=10.0.0.0/24",
                # It wants a service account "default" for every pod; the controller that makes them does not run.
                "--disable-admission-plugins=ServiceAccount",
                "--endpoint-reconciler-type=none",  # nobody here reaches the API through its Service
                # Without it, a stopping server lets watches hang for a minute: neither served nor ended.
                "--shutdown-watch-termination-grace-period=1s",
                "--profiling=false",
            ),
            log=self.directory / "kube-apiserver.log",
            ready=ready,
            deadline_seconds=90.0,  # 4 s on an idle machine; a busy one may take long
        )

    def _trust(self) -> ssl.SSLContext:
        """Trust in the server's own certificate. Raises OSError as long as the server has not written it."""
        return ssl.create_default_context(cafile=str(self.certificate))

    def _client(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            base_url=self.url,
            headers={"Authorization": f"Bearer {self._tokens[ADMIN]}"},
            connector=aiohttp.TCPConnector(ssl=self._trust()),
            timeout=aiohttp.ClientTimeout(total=CALL_SECONDS),
        )

    def _write_kubeconfig(self, user: str, token: str) -> Path:
        cluster = {"server": self.url, "certificate-authority": str(self.certificate)}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "sandbox", "cluster": cluster}],
            "users": [{"name": user, "user": {"token": token}}],
            "contexts": [{"name": "sandbox", "context": {"cluster": "sandbox", "user": user}}],
            "current-context": "sandbox",
        }
        return self._write_private(f"kubeconfig.{user.replace(':', '.').replace('/', '.')}", json.dumps(content))

    def _write_private(self, name: str, content: str) -> Path:
        path = self.directory / name
        path.touch(mode=0o600)
        path.write_text(content)
        return path


def _token_line(identity: Identity, token: str) -> str:
    return f'{token},{identity.user},{identity.user},"{",".join(identity.groups)}"\n'


def _definitions(path: Path) -> list[dict[str, Any]]:
    """The CustomResourceDefinitions of a YAML file, or of every one in a folder."""
    files = sorted(path.glob("*.yaml")) if path.is_dir() else [path]
    documents = [document for file in files for document in yaml.safe_load_all(file.read_text())]
    found = [d for d in documents if isinstance(d, dict) and d.get("kind") == "CustomResourceDefinition"]
    if not found:
        raise ControlPlaneError(f"{path}: holds no CustomResourceDefinition; check the path")
    return found


def _served_paths(definition: Mapping[str, Any]) -> list[str]:
    """Where the API server lists a definition's objects, for each version that it serves."""
    spec = definition["spec"]
    return [
        f"/apis/{spec['group']}/{version['name']}/{spec['names']['plural']}?limit=1"
        for version in spec["versions"]
        if version["served"]
    ]


def _schema_paths(definition: Mapping[str, Any]) -> list[str]:
    """Where the API server publishes the schema of each version of a definition, later still than it serves it."""
    spec = definition["spec"]
    return [f"/openapi/v3/apis/{spec['group']}/{version['name']}" for version in spec["versions"] if version["served"]]


async def _until_served(client: aiohttp.ClientSession, path: str, deadline_seconds: float, *, naming: str = "") -> None:
    """
    Wait until a GET of `path` is answered with 200, and what it answers has a name in it.

    A definition is served a moment after it is Established.
    """
    try:
        async with asyncio.timeout(deadline_seconds):
            while True:
                async with client.get(path) as answer:
                    if answer.status == 200 and naming in await answer.text():
                        return
                await asyncio.sleep(POLL_SECONDS)
    except TimeoutError:
        raise ControlPlaneError(f"{path}: not served after {deadline_seconds:g} s; see kube-apiserver.log") from None


async def _call(client: aiohttp.ClientSession, method: str, path: str, body: str, content_type: str) -> dict[str, Any]:
    """One call as the admin. Raises ControlPlaneError with the message of the Status that a refusal carries."""
    async with client.request(method, path, data=body, headers={"Content-Type": content_type}) as answer:
        content: dict[str, Any] = await answer.json(content_type=None)
        if answer.status >= 300:
            raise ControlPlaneError(f"{method} {path}: {answer.status} {content.get('message', '')}")
        return content
