"""
A service that cannot start says so in one line that names the setting, and ends with 2.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SERVICES = ("scorer", "planner", "migrator")
WITH_CLUSTER = ("planner", "migrator")
FREE = ("--grpc-addr=127.0.0.1:0", "--metrics-addr=127.0.0.1:0", "--health-addr=127.0.0.1:0")
NOT_LISTENING = """
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "http://127.0.0.1:1"}}]
users: [{name: u, user: {}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
"""


@pytest.fixture
def kubeconfig(tmp_path: Path) -> Path:
    """A kubeconfig that can be read, of a cluster that is not there."""
    path = tmp_path / "config"
    path.write_text(NOT_LISTENING)
    return path


@pytest.fixture
def taken() -> Iterator[str]:
    """An address that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture(autouse=True)
def _process_as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A program may do with its process what it likes; this one goes on."""
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST", "POD_NAMESPACE", "GRPC_ADDR", "INSECURE_BIND"):
        monkeypatch.delenv(name, raising=False)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


class Start:
    """Starts a service in this process, and reads its last words."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], kubeconfig: Path) -> None:
        self._monkeypatch = monkeypatch
        self._capfd = capfd
        self._kubeconfig = kubeconfig

    def complaint(self, service: str, *flags: str) -> str:
        """The one line that a service ends with 2 by; it may say nothing worse than INFO before."""
        cluster = (f"--kubeconfig={self._kubeconfig}",) if service in WITH_CLUSTER else ()
        self._monkeypatch.setattr(sys, "argv", [f"couchestor-{service}", *FREE, *cluster, *flags])
        with pytest.raises(SystemExit) as ended:
            importlib.import_module(f"{service}.__main__").main()
        said = self._capfd.readouterr()
        assert ended.value.code == 2, said.out
        assert "Traceback" not in said.out
        assert "crashed" not in said.out
        (line,) = said.err.splitlines()
        assert line.startswith(f"couchestor-{service}: ")
        return line.removeprefix(f"couchestor-{service}: ")


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], kubeconfig: Path) -> Start:
    return Start(monkeypatch, capfd, kubeconfig)


@pytest.mark.parametrize("service", SERVICES)
def test_plain_text_beyond_loopback_is_refused_with_what_to_say(service: str, start: Start) -> None:
    said = start.complaint(service, "--grpc-addr=0.0.0.0:0")
    assert said.startswith("--grpc-addr 0.0.0.0:0 is not a loopback address")
    assert said.endswith("listen on 127.0.0.1, or say --insecure-bind where the network is trusted")


@pytest.mark.parametrize("flag", ["--grpc-addr", "--metrics-addr", "--health-addr"])
@pytest.mark.parametrize("service", SERVICES)
def test_a_port_in_use_is_told_with_the_flag_that_asked_for_it(
    service: str, flag: str, start: Start, taken: str
) -> None:
    said = start.complaint(service, f"{flag}={taken}")
    assert said == f"{flag} {taken}: cannot be listened on: Address already in use; choose another address"


@pytest.mark.parametrize("flag", ["--grpc-addr", "--metrics-addr"])
def test_an_address_of_another_machine_is_told_as_such(flag: str, start: Start) -> None:
    said = start.complaint("scorer", "--insecure-bind", f"{flag}=192.0.2.1:0")
    assert said == f"{flag} 192.0.2.1:0: cannot be listened on: Cannot assign requested address; choose another address"


@pytest.mark.parametrize("service", WITH_CLUSTER)
def test_a_kubeconfig_that_is_not_there_is_told(service: str, start: Start, tmp_path: Path) -> None:
    said = start.complaint(service, f"--kubeconfig={tmp_path}/nowhere")
    assert said == (
        f"--kubeconfig: no usable Kubernetes credentials in {tmp_path}/nowhere: "
        "there is no such file, or it is unreadable; name the path of a kubeconfig"
    )


@pytest.mark.parametrize("text", ["", "{", "kind: Config", "clusters: 7"])
@pytest.mark.parametrize("service", WITH_CLUSTER)
def test_a_kubeconfig_that_is_none_is_told(service: str, text: str, start: Start, tmp_path: Path) -> None:
    path = tmp_path / "broken"
    path.write_text(text)
    said = start.complaint(service, f"--kubeconfig={path}")
    assert said.startswith(f"--kubeconfig: no usable Kubernetes credentials in {path}: ")
    assert said.endswith("; name the path of a kubeconfig")


def test_a_kubeconfig_whose_authority_is_not_there_is_told(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "secure"
    path.write_text(NOT_LISTENING.replace('"http://', f'certificate-authority: "{tmp_path}/ca.crt", server: "https://'))
    path.write_text(path.read_text().replace("server: certificate-authority", "certificate-authority"))
    said = start.complaint("planner", f"--kubeconfig={path}")
    assert f"{tmp_path}/ca.crt" in said


@pytest.mark.parametrize(
    ("flag", "text", "why"),
    [
        ("--prometheus-ca-file", None, "cannot read the certificate authority: No such file or directory"),
        ("--prometheus-ca-file", "no certificate", "cannot read the certificate authority: [X509: NO_CERT"),
        ("--prometheus-token-file", None, "cannot read the token: No such file or directory"),
        ("--prometheus-token-file", "\n", "holds no token: expected one line of text"),
    ],
)
def test_a_file_that_the_scorer_needs_is_looked_at_before_it_starts(
    flag: str, text: str | None, why: str, start: Start, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    if text is not None:
        path.write_text(text)
    said = start.complaint("scorer", f"{flag}={path}")
    assert said.startswith(f"{flag} {path}: {why}")
    assert said.endswith("; name a file that this service may read")


@pytest.mark.parametrize(
    ("flag", "text", "why"),
    [
        ("--mayastor-ca-file", None, "cannot read the certificate authorities: No such file or directory"),
        ("--mayastor-ca-file", "no certificate", "cannot read the certificate authorities: [X509"),
        ("--mayastor-token-file", None, "cannot read the token: No such file or directory"),
        ("--mayastor-token-file", "\n", "holds no token: expected one line of text"),
    ],
)
def test_a_file_that_the_migrator_needs_is_looked_at_before_it_starts(
    flag: str, text: str | None, why: str, start: Start, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    if text is not None:
        path.write_text(text)
    said = start.complaint("migrator", "--mayastor-rest-url=https://mayastor:8080", f"{flag}={path}")
    assert said.startswith(f"{flag} {path}: {why}")
    assert said.endswith("; name a file that this service may read")


@pytest.mark.parametrize("flag", ["--backend=rest", "--mayastor-token-file=token", "--mayastor-ca-file=ca"])
def test_what_makes_no_sense_without_the_url_of_a_rest_api_is_told(flag: str, start: Start) -> None:
    said = start.complaint("migrator", flag)
    wanting = flag if flag == "--backend=rest" else flag.partition("=")[0]
    assert said == f"{wanting} needs --mayastor-rest-url (MAYASTOR_REST_URL), which is not set"


@pytest.mark.parametrize(
    "url", ["mayastor:8081", "ftp://mayastor", "http://", "http://a:0", "http://a:b", "http://a?b"]
)
def test_a_url_at_which_no_rest_api_can_be_is_refused(url: str, start: Start) -> None:
    said = start.complaint("migrator", f"--mayastor-rest-url={url}")
    assert said.startswith(f"--mayastor-rest-url: {url!r} is not the URL of a REST API: ")


@pytest.mark.parametrize("name", ["Storage", "a_b", "-a", "a-", "a.b", "a" * 64, "é"])
@pytest.mark.parametrize("flag", ["--lease-namespace", "--mayastor-namespace"])
def test_a_namespace_that_cannot_exist_is_refused(flag: str, name: str, start: Start) -> None:
    said = start.complaint("migrator", f"{flag}={name}")
    assert said.startswith(f"{flag}: {name!r} is not the name of a namespace: ")


def test_the_namespace_of_the_pod_is_checked_too(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POD_NAMESPACE", "Storage")
    for service in WITH_CLUSTER:
        assert start.complaint(service).startswith("POD_NAMESPACE: 'Storage' is not the name of a namespace: ")


@pytest.mark.parametrize("service", ["scorer", "planner"])
def test_a_shortest_window_that_is_none_is_refused(service: str, start: Start) -> None:
    assert start.complaint(service, "--min-window-seconds=0") == "--min-window-seconds: 0 is less than 0.001"
    assert "--min-window-seconds must be at most 30 days" in start.complaint(service, "--min-window-seconds=2592001")


@pytest.mark.parametrize("addr", ["scorer", "scorer:0", "scorer:65536", ":50051", "http://scorer:50051", "::1:50051"])
@pytest.mark.parametrize("flag", ["--scorer-addr", "--migrator-addr"])
def test_an_address_that_no_service_can_have_is_refused(flag: str, addr: str, start: Start) -> None:
    assert start.complaint("planner", f"{flag}={addr}").startswith(f"{flag}: {addr!r} is not the address of a service")


async def test_a_program_of_its_own_says_the_same(taken: str, kubeconfig: Path) -> None:
    service = "planner"
    flags = [*FREE, f"--grpc-addr={taken}", f"--kubeconfig={kubeconfig}", "--log-level=ERROR"]
    program = await asyncio.create_subprocess_exec(
        sys.executable, "-m", service, *flags, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(60):
        output, errors = await program.communicate()
    assert (program.returncode, output) == (2, b"")
    assert errors.decode() == (
        f"couchestor-{service}: --grpc-addr {taken}: cannot be listened on: Address already in use; "
        "choose another address\n"
    )
