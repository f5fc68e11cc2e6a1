"""
Where the API server is, who we are to it, and whom we trust: from the pod's service account or from a kubeconfig.

kubernetes_asyncio reads both, exec plugins and OIDC among them; nothing else of it is used. Credentials expire, so the
header is asked for anew with every request and read again from its source once a minute, or at once after a 401.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from kubernetes_asyncio.client import Configuration
from kubernetes_asyncio.config import ConfigException
from kubernetes_asyncio.config.incluster_config import InClusterConfigLoader
from kubernetes_asyncio.config.kube_config import load_kube_config

from common.config import SettingError
from common.kube.api import KubeError

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
RENEW_SECONDS: Final = 60.0
DEFAULT_KUBECONFIG: Final = Path("~/.kube/config")


class CredentialsError(KubeError, SettingError):
    """There are no credentials to begin with."""


@dataclass(frozen=True, slots=True)
class Server:
    """Where requests go, and over what."""

    url: str
    tls: ssl.SSLContext | None
    tls_server_name: str | None
    proxy: str | None


class Credentials:
    """The identity that requests carry. `load` reads it for the first time."""

    def __init__(self, kubeconfig: str = "") -> None:
        self._path = _source(kubeconfig)
        self._header = ""
        self._renew_at = 0.0
        self.renewal_failure = ""
        """Why the last renewal failed; empty if it did not. The header before it stays in use."""

    async def load(self) -> Server:
        """Read everything. Raises CredentialsError, in one line, if there is nothing to be read."""
        try:
            configuration = await self._read()
            server = Server(
                url=str(configuration.host).rstrip("/"),
                tls=_tls(configuration) if str(configuration.host).startswith("https") else None,
                tls_server_name=configuration.tls_server_name,
                proxy=configuration.proxy,
            )
        except Exception as error:
            # The library raises whatever its parsers, plugins and files do.
            raise CredentialsError(self._unusable(error)) from error
        self._keep(configuration)
        return server

    async def headers(self) -> dict[str, str]:
        """Return the headers that identify us, renewed if it is time."""
        if asyncio.get_running_loop().time() >= self._renew_at:
            try:
                self._keep(await self._read())
            except Exception as error:  # noqa: BLE001 - what still works is kept; a 401 will tell of this failure
                self.renewal_failure = _line(error)
                self._renew_at = asyncio.get_running_loop().time() + RENEW_SECONDS
        return {"Authorization": self._header} if self._header else {}

    def _unusable(self, error: Exception) -> str:
        """Say where nothing was found, and what would be: a file that is named is the setting that is wrong."""
        where = self._path or f"the pod's service account ({SERVICE_ACCOUNT})"
        why = _line(error) if not self._path or _readable(self._path) else "there is no such file, or it is unreadable"
        return f"--kubeconfig: no usable Kubernetes credentials in {where}: {why}; name the path of a kubeconfig"

    def expire(self) -> None:
        """Have them read again before the next request: the server did not accept them."""
        self._renew_at = 0.0

    def _keep(self, configuration: Any) -> None:
        self._header = configuration.api_key.get("BearerToken", "")
        self._renew_at = asyncio.get_running_loop().time() + RENEW_SECONDS
        self.renewal_failure = ""

    async def _read(self) -> Any:
        # Typed as Any: the library's own annotations stop half-way.
        configuration: Any = Configuration()
        if self._path:
            await load_kube_config(config_file=self._path, client_configuration=configuration, persist_config=False)
        else:
            InClusterConfigLoader(
                token_filename=str(SERVICE_ACCOUNT / "token"),
                cert_filename=str(SERVICE_ACCOUNT / "ca.crt"),
                try_refresh_token=False,
            ).load_and_set(configuration)
        if not configuration.host:
            raise ConfigException("no server is named")
        return configuration


def _source(kubeconfig: str) -> str:
    """The kubeconfig to read (several paths, as in $KUBECONFIG, are merged); "" for the pod's service account."""
    if kubeconfig:
        return kubeconfig
    if os.environ.get("KUBERNETES_SERVICE_HOST") and (SERVICE_ACCOUNT / "token").is_file():
        return ""
    return os.environ.get("KUBECONFIG") or str(DEFAULT_KUBECONFIG.expanduser())


def _readable(paths: str) -> bool:
    """Tell whether one at least of the files can be read; the library says "no configuration found" of both cases."""
    return any(os.access(path, os.R_OK) for path in paths.split(os.pathsep))


def _tls(configuration: Any) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
    # Clusters' own CAs often lack extensions that Python 3.13 began to demand, and no other client of theirs does.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if configuration.cert_file:
        context.load_cert_chain(configuration.cert_file, keyfile=configuration.key_file)
    if not configuration.verify_ssl:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
