"""
Who we are to an API server: what kubeconfigs and pods say, over TLS, and what happens when it expires.
"""

from __future__ import annotations

import base64
import datetime as dt
import json
import ssl
import stat
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from common.kube import credentials
from common.kube.api import PERSISTENT_VOLUMES, ForbiddenError, KubeError, UnreachableError
from common.kube.http import HttpKubeApi
from tests.ground.raw_server import raw_server

OBJECT = {"metadata": {"name": "x", "resourceVersion": "7"}}


@dataclass(frozen=True)
class Identity:
    """A key and its certificate, in files."""

    certificate: Path
    key: Path

    def data(self) -> tuple[str, str]:
        return (
            base64.b64encode(self.certificate.read_bytes()).decode(),
            base64.b64encode(self.key.read_bytes()).decode(),
        )


def identity(folder: Path, name: str, hosts: tuple[str, ...] = ()) -> Identity:
    """Make one that signs itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    names = [x509.IPAddress(ip_address(host)) if host[0].isdigit() else x509.DNSName(host) for host in hosts]
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    made = Identity(folder / f"{name}.crt", folder / f"{name}.key")
    made.certificate.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    made.key.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return made


def served_as(who: Identity, *, trust: Identity | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(who.certificate, who.key)
    if trust is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(trust.certificate)
    return context


def plugin(path: Path, *answers: dict[str, Any]) -> dict[str, Any]:
    """An exec plugin that gives one answer after the other, and then fails."""
    script = path / "plugin"
    for number, answer in enumerate(answers):
        credential = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": answer}
        (path / f"answer{number}").write_text(json.dumps(credential))
    script.write_text(
        f"#!/bin/sh\nn=$(cat {path}/count 2>/dev/null || echo 0)\necho $((n + 1)) > {path}/count\n"
        f"exec cat {path}/answer$n\n"
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return {
        "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": str(script),
            "interactiveMode": "Never",
        }
    }


async def test_a_server_is_trusted_by_its_ca_and_we_are_known_by_our_certificate(tmp_path: Path) -> None:
    server_identity, client = identity(tmp_path, "server", ("127.0.0.1",)), identity(tmp_path, "client")
    async with raw_server(served_as(server_identity, trust=client)) as server:
        server.answers(200, OBJECT)
        certificate, key = client.data()
        kubeconfig = server.kubeconfig(
            tmp_path / "config",
            user={"client-certificate-data": certificate, "client-key-data": key},
            cluster={"certificate-authority": str(server_identity.certificate)},
        )
        async with HttpKubeApi.connect(kubeconfig) as api:
            await api.get(PERSISTENT_VOLUMES, "x")
        anonymous = server.kubeconfig(
            tmp_path / "other", cluster={"certificate-authority": str(server_identity.certificate)}
        )
        async with HttpKubeApi.connect(anonymous) as api:
            with pytest.raises(UnreachableError):
                await api.get(PERSISTENT_VOLUMES, "x")


async def test_a_server_that_another_ca_signed_is_not_spoken_to(tmp_path: Path) -> None:
    server_identity, other = identity(tmp_path, "server", ("127.0.0.1",)), identity(tmp_path, "other")
    async with raw_server(served_as(server_identity)) as server:
        server.answers(200, OBJECT)
        kubeconfig = server.kubeconfig(tmp_path / "config", cluster={"certificate-authority": str(other.certificate)})
        async with HttpKubeApi.connect(kubeconfig) as api:
            with pytest.raises(UnreachableError, match="certificate verify failed"):
                await api.get(PERSISTENT_VOLUMES, "x")
        assert server.requests == []


async def test_a_certificate_may_carry_another_name_if_the_kubeconfig_says_which(tmp_path: Path) -> None:
    server_identity = identity(tmp_path, "server", ("kube.example",))
    async with raw_server(served_as(server_identity)) as server:
        server.answers(200, OBJECT)
        ca = {"certificate-authority": str(server_identity.certificate)}
        wrong = server.kubeconfig(tmp_path / "wrong", cluster=ca)
        async with HttpKubeApi.connect(wrong) as api:
            with pytest.raises(UnreachableError, match="certificate"):
                await api.get(PERSISTENT_VOLUMES, "x")
        right = server.kubeconfig(tmp_path / "right", cluster={**ca, "tls-server-name": "kube.example"})
        async with HttpKubeApi.connect(right) as api:
            await api.get(PERSISTENT_VOLUMES, "x")


async def test_verification_can_be_turned_off_by_the_kubeconfig(tmp_path: Path) -> None:
    async with raw_server(served_as(identity(tmp_path, "server"))) as server:
        server.answers(200, OBJECT)
        kubeconfig = server.kubeconfig(tmp_path / "config", cluster={"insecure-skip-tls-verify": True})
        async with HttpKubeApi.connect(kubeconfig) as api:
            await api.get(PERSISTENT_VOLUMES, "x")


async def test_a_token_from_a_plugin_is_asked_for_again_once_it_is_not_accepted(tmp_path: Path) -> None:
    async with raw_server() as server:
        kubeconfig = server.kubeconfig(
            tmp_path / "config", user=plugin(tmp_path, {"token": "first"}, {"token": "second"})
        )
        async with HttpKubeApi.connect(kubeconfig) as api:
            server.answers(401, {"kind": "Status", "code": 401, "reason": "Unauthorized", "message": "expired"})
            with pytest.raises(ForbiddenError, match="401: expired"):
                await api.get(PERSISTENT_VOLUMES, "x")
            server.answers(200, OBJECT)
            await api.get(PERSISTENT_VOLUMES, "x")
        assert [request.headers["authorization"] for request in server.requests] == ["Bearer first", "Bearer second"]


async def test_a_plugin_that_fails_later_leaves_the_last_token_and_says_so_when_it_matters(tmp_path: Path) -> None:
    async with raw_server() as server:
        kubeconfig = server.kubeconfig(tmp_path / "config", user=plugin(tmp_path, {"token": "first"}))
        async with HttpKubeApi.connect(kubeconfig) as api:
            server.answers(401, {"kind": "Status", "code": 401, "reason": "Unauthorized", "message": "expired"})
            with pytest.raises(ForbiddenError):
                await api.get(PERSISTENT_VOLUMES, "x")
            with pytest.raises(ForbiddenError, match=r"credentials could not be renewed: .*plugin") as refusal:
                await api.get(PERSISTENT_VOLUMES, "x")
            assert "\n" not in str(refusal.value)
            assert server.requests[-1].headers["authorization"] == "Bearer first"


async def test_the_token_file_of_a_pod_is_read_again_when_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server_identity = identity(tmp_path, "ca", ("127.0.0.1",))
    server_identity.certificate.rename(tmp_path / "ca.crt")
    server_identity = Identity(tmp_path / "ca.crt", server_identity.key)
    (tmp_path / "token").write_text("first")
    monkeypatch.setattr(credentials, "SERVICE_ACCOUNT", tmp_path)
    monkeypatch.setattr(credentials, "RENEW_SECONDS", 0.0)
    async with raw_server(served_as(server_identity)) as server:
        server.answers(200, OBJECT)
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.port))
        async with HttpKubeApi.connect() as api:
            await api.get(PERSISTENT_VOLUMES, "x")
            (tmp_path / "token").write_text("second")
            await api.get(PERSISTENT_VOLUMES, "x")
        assert [request.headers["authorization"] for request in server.requests] == ["Bearer first", "Bearer second"]


async def test_outside_of_a_pod_the_environment_names_the_kubeconfig(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    async with raw_server() as server:
        server.answers(200, OBJECT)
        monkeypatch.setenv("KUBECONFIG", server.kubeconfig(tmp_path / "config", user={"token": "env"}))
        async with HttpKubeApi.connect() as api:
            await api.get(PERSISTENT_VOLUMES, "x")
        assert server.requests[0].headers["authorization"] == "Bearer env"


async def test_a_server_may_live_under_a_path(tmp_path: Path) -> None:
    async with raw_server() as server:
        server.answers(200, OBJECT)
        kubeconfig = server.kubeconfig(tmp_path / "config", cluster={"server": f"{server.url}/k8s/clusters/c-1/"})
        async with HttpKubeApi.connect(kubeconfig) as api:
            await api.get(PERSISTENT_VOLUMES, "x")
        assert server.requests[0].path == "/k8s/clusters/c-1/api/v1/persistentvolumes/x"


@pytest.mark.parametrize(
    "text", [None, "", "not: [yaml", "just text", "{}", '{"current-context": "x", "contexts": []}']
)
async def test_a_kubeconfig_that_is_none_is_told_of_in_one_line(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "config"
    if text is not None:
        path.write_text(text)
    with pytest.raises(KubeError, match=r"no usable Kubernetes credentials in .*config") as refusal:
        async with HttpKubeApi.connect(str(path)):
            pass
    assert "\n" not in str(refusal.value)
