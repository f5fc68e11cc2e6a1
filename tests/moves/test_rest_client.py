"""The client of Mayastor's REST API: each call once, each answer understood, nothing trusted that is not proven."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from migrator.backends.rest import client as client_module
from migrator.backends.rest.abilities import find_marks, knows_pool_cordon
from migrator.backends.rest.answers import _OUTCOMES, Meaning, RestError, understood
from migrator.backends.rest.client import RestClient
from migrator.backends.rest.token import TokenFile
from migrator.core.model import Outcome
from migrator.core.steering.abilities import Ability, abilities_of
from migrator.core.steering.cluster import PoolCordon
from sandbox.fronts.mayastor_rest.faults import Effect, Fault
from sandbox.world.versions import MayastorVersion
from tests.contract.rest_cluster import VOLUME, RestCluster
from tests.ground.raw_server import Request, raw_server
from tests.moves.rest_stage import staged

NO_VOLUME = "00000000-0000-4000-8000-000000000000"


async def refusal(call: Awaitable[object]) -> RestError:
    with pytest.raises(RestError) as caught:
        await call
    return caught.value


# --- each request once ---------------------------------------------------------------------------------------------

WRITES: dict[str, Callable[[RestClient], Awaitable[object]]] = {
    "set_replica_count": lambda client: client.set_replica_count(VOLUME, 2),
    "cordon_node": lambda client: client.cordon_node("n1", "couchestor-m"),
    "uncordon_node": lambda client: client.uncordon_node("n1", "couchestor-m"),
    "label_pool": lambda client: client.label_pool("p1", "tier", "x", overwrite=True),
    "unlabel_pool": lambda client: client.unlabel_pool("p1", "tier"),
    "cordon_pool": lambda client: client.cordon_pool("p1", PoolCordon(replicas=True)),
    "uncordon_pool": lambda client: client.uncordon_pool("p1", PoolCordon(replicas=True)),
}


async def hang_up(_request: Request, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def reset(_request: Request, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def break_off(_request: Request, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{")
    await writer.drain()
    writer.close()


@pytest.mark.parametrize("broken", [hang_up, reset, break_off])
@pytest.mark.parametrize("write", WRITES)
async def test_a_write_is_sent_once_when_its_connection_breaks(write: str, broken: Any) -> None:
    async with raw_server() as server, RestClient.connect(server.url) as client:
        server.respond = broken
        error = await refusal(WRITES[write](client))
        assert error.meaning is Meaning.OUTCOME_UNKNOWN
        assert error.meaning.outcome is Outcome.UNKNOWN
        assert len(server.requests) == 1


async def test_a_write_after_others_is_sent_once_too_and_on_a_connection_of_its_own() -> None:
    async with raw_server() as server, RestClient.connect(server.url) as client:
        node = {"id": "n1", "spec": {"grpcEndpoint": "x", "id": "n1"}}
        server.answers(200, node)
        await client.cordon_node("n1", "couchestor-m")
        server.respond = hang_up
        await refusal(client.uncordon_node("n1", "couchestor-m"))
        assert [request.method for request in server.requests] == ["PUT", "DELETE"]
        assert {request.headers["connection"] for request in server.requests} == {"close"}


async def test_without_the_guard_aiohttp_would_send_a_write_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Holds the tests above to what they are for: if aiohttp changes, the guard can go."""

    async def unguarded(request: Any, send: Any) -> Any:
        return await send(request)

    monkeypatch.setattr(client_module, "_once", unguarded)
    async with raw_server() as server, RestClient.connect(server.url) as client:
        server.respond = hang_up
        await refusal(client.set_replica_count(VOLUME, 1))
        assert len(server.requests) == 2


async def test_a_write_that_found_no_connection_is_known_not_to_have_happened() -> None:
    async with raw_server() as server:
        url = server.url
    async with RestClient.connect(url) as client:
        error = await refusal(client.set_replica_count(VOLUME, 2))
    assert error.meaning is Meaning.NOT_SENT
    assert not error.meaning.outcome_unknown


async def test_a_call_without_an_answer_ends_at_its_deadline_with_the_outcome_unknown() -> None:
    cluster = RestCluster()
    await cluster.create()
    async with staged(cluster, operation_seconds=0.1) as stage:
        cluster.front.inject(Fault(Effect.SILENT, "PUT", "replica_count"))
        error = await refusal(stage.client.set_replica_count(VOLUME, 2))
        assert error.meaning is Meaning.OUTCOME_UNKNOWN
        assert "no answer within 0.1 s" in str(error)
        assert (await stage.client.volume(VOLUME)).spec.num_replicas == 2, "it happened all the same"


@pytest.mark.parametrize("effect", [Effect.LOST_BEFORE, Effect.LOST_AFTER])
async def test_a_connection_lost_in_a_write_says_nothing_of_whether_it_happened(effect: Effect) -> None:
    cluster = RestCluster()
    await cluster.create()
    async with staged(cluster) as stage:
        cluster.front.inject(Fault(effect, "PUT", "replica_count"))
        error = await refusal(stage.client.set_replica_count(VOLUME, 2))
        assert error.meaning is Meaning.OUTCOME_UNKNOWN
        happened = (await stage.client.volume(VOLUME)).spec.num_replicas == 2
        assert happened is (effect is Effect.LOST_AFTER)


# --- what answers mean ---------------------------------------------------------------------------------------------


def body(kind: str, message: str = "", details: str = "") -> bytes:
    return msgspec.json.encode({"kind": kind, "message": message, "details": details})


ROWS = [
    (400, body("Deserialize", "", "Path deserialize error"), Meaning.MISTAKE, Outcome.REFUSED),
    (401, body("Unauthorized", "/v0/nodes"), Meaning.NOT_ALLOWED, Outcome.REFUSED),
    (404, body("NotFound", "SvcError :: VolumeNotFound: Volume 'x' not found"), Meaning.GONE, Outcome.CONFLICT),
    (404, b"", Meaning.UNKNOWN_CALL, Outcome.REFUSED),
    (
        412,
        body("FailedPrecondition", "SvcError :: ReplicaCountAchieved: Replica count of Volume 'x' is already '2'"),
        Meaning.DONE_ALREADY,
        Outcome.DONE,
    ),
    (412, body("FailedPrecondition", "SvcError :: ReplicaChangeCount: only one"), Meaning.REFUSED, Outcome.REFUSED),
    (412, body("FailedPrecondition", "SvcError :: LastReplica: no"), Meaning.REFUSED, Outcome.REFUSED),
    (412, body("FailedPrecondition", "SvcError :: RestrictedReplicaCount: no"), Meaning.REFUSED, Outcome.REFUSED),
    (412, body("FailedPrecondition", "SvcError :: ReplicaIncrease: Degraded"), Meaning.REFUSED, Outcome.REFUSED),
    (412, body("FailedPrecondition", "SvcError :: LabelsExists: tier"), Meaning.REFUSED, Outcome.REFUSED),
    (412, body("FailedPrecondition", "SvcError :: CordonLabel: already"), Meaning.DONE_ALREADY, Outcome.DONE),
    (412, body("FailedPrecondition", "SvcError :: UncordonLabel: not there"), Meaning.DONE_ALREADY, Outcome.DONE),
    (412, body("FailedPrecondition", "SvcError :: LabelNotFound: not there"), Meaning.DONE_ALREADY, Outcome.DONE),
    (412, body("FailedPrecondition", "volume target not available"), Meaning.REFUSED, Outcome.REFUSED),
    (409, body("Conflict", "SvcError :: Conflict: existing operation"), Meaning.BUSY, Outcome.BUSY),
    (409, body("InUse", "SvcError :: InUse: Replica"), Meaning.IN_USE, Outcome.UNKNOWN),
    (422, body("AlreadyExists", "SvcError :: AlreadyExists: Pool"), Meaning.DONE_ALREADY, Outcome.DONE),
    (500, body("Internal", "SvcError::GrpcRequestError"), Meaning.DATA_PLANE_REFUSED, Outcome.UNKNOWN),
    (503, body("Aborted", 'status: Cancelled, message: "Timeout expired"'), Meaning.OUTCOME_UNKNOWN, Outcome.UNKNOWN),
    (503, body("Unavailable", "SvcError :: NotReady: Volume"), Meaning.NOT_NOW, Outcome.UNKNOWN),
    (503, body("Unavailable", "tcp connect error"), Meaning.NOT_NOW, Outcome.UNKNOWN),
    (507, body("ResourceExhausted", "SvcError :: NotEnoughResources: no"), Meaning.NO_ROOM, Outcome.REFUSED),
    (507, body("ResourceExhausted", "SvcError :: MaxRebuilds: 2"), Meaning.TOO_MANY_REBUILDS, Outcome.BUSY),
    # And what Mayastor is not known to say: never a clear no, and never a yes.
    (404, b"<html>no such ingress</html>", Meaning.UNREADABLE, Outcome.UNKNOWN),
    (404, body("SomethingNew"), Meaning.UNREADABLE, Outcome.UNKNOWN),
    (409, body("SomethingNew"), Meaning.UNREADABLE, Outcome.UNKNOWN),
    (418, body("Teapot"), Meaning.UNREADABLE, Outcome.UNKNOWN),
    (502, b"<html>bad gateway</html>", Meaning.UNREADABLE, Outcome.UNKNOWN),
    (503, b"no healthy upstream", Meaning.UNREADABLE, Outcome.UNKNOWN),
    (500, b"", Meaning.UNREADABLE, Outcome.UNKNOWN),
    (302, b"", Meaning.UNREADABLE, Outcome.UNKNOWN),
    (403, b"<html>forbidden</html>", Meaning.NOT_ALLOWED, Outcome.REFUSED),
    (429, b"slow down", Meaning.BUSY, Outcome.BUSY),
]


@pytest.mark.parametrize(("status", "text", "meaning", "outcome"), ROWS)
def test_every_answer_that_is_no_success_has_its_meaning(
    status: int, text: bytes, meaning: Meaning, outcome: Outcome
) -> None:
    found = understood(status, text)
    assert (found.meaning, found.meaning.outcome) == (meaning, outcome)


def test_every_meaning_says_what_becomes_of_a_write() -> None:
    assert set(_OUTCOMES) == set(Meaning)


async def test_the_answers_of_a_control_plane_are_understood() -> None:
    cluster = RestCluster(max_rebuilds=0)
    await cluster.create()
    await cluster.publish("n1")
    async with staged(cluster) as stage:
        ask = stage.client
        assert (await refusal(ask.volume(NO_VOLUME))).meaning is Meaning.GONE
        assert (await refusal(ask.volume("no-uuid"))).meaning is Meaning.MISTAKE
        assert (await refusal(ask.set_replica_count(VOLUME, 1))).meaning is Meaning.DONE_ALREADY
        assert (await refusal(ask.set_replica_count(VOLUME, 0))).meaning is Meaning.REFUSED
        assert (await refusal(ask.set_replica_count(VOLUME, 3))).meaning is Meaning.REFUSED
        assert (await refusal(ask.set_replica_count(VOLUME, 300))).meaning is Meaning.MISTAKE
        assert (await refusal(ask.set_replica_count(VOLUME, 2))).meaning is Meaning.TOO_MANY_REBUILDS
        cluster.front.inject(Fault(Effect.DOWN))
        assert (await refusal(ask.pools())).meaning is Meaning.NOT_NOW
        cluster.front.set_control(lambda control: replace(control, max_rebuilds=None))
        for pool in ("p1", "p2", "p3"):
            holds = cluster.front.volumes[VOLUME].replicas[0].pool == pool
            cluster.front.set_pool_online(pool, online=holds)
        cluster.front.restart()
        assert (await refusal(ask.set_replica_count(VOLUME, 2))).meaning is Meaning.NO_ROOM


async def test_levers_are_pulled_and_let_go_and_twice_is_said_to_be_done_already() -> None:
    async with staged(RestCluster(MayastorVersion.OPENEBS_4_4)) as stage:
        ask, closed = stage.client, PoolCordon(replicas=True)
        assert (await ask.cordon_node("n1", "couchestor-m")).id == "n1"
        assert (await refusal(ask.cordon_node("n1", "couchestor-m"))).meaning is Meaning.DONE_ALREADY
        await ask.uncordon_node("n1", "couchestor-m")
        assert (await refusal(ask.uncordon_node("n1", "couchestor-m"))).meaning is Meaning.DONE_ALREADY
        assert (await refusal(ask.label_pool("p1", "tier", "x"))).meaning is Meaning.REFUSED
        assert (await ask.label_pool("p1", "tier", "x", overwrite=True)).spec.labels == {"tier": "x"}
        await ask.label_pool("p1", "openebs.io/a b", "c/d=e")
        assert (await ask.pools())[0].spec.labels == {"tier": "x", "openebs.io/a b": "c/d=e"}
        await ask.unlabel_pool("p1", "openebs.io/a b")
        assert (await refusal(ask.unlabel_pool("p1", "openebs.io/a b"))).meaning is Meaning.DONE_ALREADY
        cordoned = (await ask.cordon_pool("p1", closed)).spec.cordon_drain
        assert cordoned is not None
        assert cordoned.cordoned is not None
        assert (cordoned.cordoned.replicas, cordoned.cordoned.snapshots) == (True, False)
        assert (await refusal(ask.cordon_pool("p1", closed))).meaning is Meaning.DONE_ALREADY
        assert (await ask.uncordon_pool("p1", closed)).spec.cordon_drain is None


@pytest.mark.parametrize("name", ["", ".", ".."])
async def test_a_name_that_would_be_another_path_is_not_sent(name: str) -> None:
    async with staged(RestCluster()) as stage:
        with pytest.raises(ValueError, match="cannot be part of a path"):
            await stage.client.uncordon_node(name, "couchestor-m")
        assert stage.exchanges == []


@pytest.mark.parametrize("wrong", [b"", b"null", b"{}", b"[]", b'{"spec": 1}', b"<html></html>", b"\xff\xfe"])
async def test_a_success_that_cannot_be_understood_leaves_the_outcome_unknown(wrong: bytes) -> None:
    async with raw_server() as server, RestClient.connect(server.url) as client:
        server.answers(200, wrong)
        assert (await refusal(client.set_replica_count(VOLUME, 2))).meaning.outcome is Outcome.UNKNOWN


async def test_an_answer_without_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "MAX_ANSWER_BYTES", 1000)
    async with raw_server() as server, RestClient.connect(server.url) as client:
        server.answers(200, b"[" + b" " * 5000 + b"]")
        assert "longer than 1000 bytes" in str(await refusal(client.pools()))


async def test_a_redirection_is_not_followed() -> None:
    async with raw_server() as server, RestClient.connect(server.url) as client:
        server.answers(302, b"", Location=f"{server.url}/v0/elsewhere")
        assert (await refusal(client.set_replica_count(VOLUME, 1))).meaning is Meaning.UNREADABLE
        assert len(server.requests) == 1


async def test_an_error_is_one_short_line_that_names_the_call() -> None:
    async with raw_server() as server, RestClient.connect(server.url) as client:
        server.answers(500, {"kind": "Internal", "message": "a\nb" * 1000, "details": ""})
        told = str(await refusal(client.pools()))
    assert told.startswith(f"GET {server.url}/v0/pools: 500 Internal a ba b")
    assert "\n" not in told
    assert len(told) < 400


# --- who we are ----------------------------------------------------------------------------------------------------


async def test_a_renewed_token_is_used_with_the_next_call(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("no-token-of-three-parts\n")
    async with staged(RestCluster(token_required=True), token_file=str(path)) as stage:
        assert (await refusal(stage.client.nodes())).meaning is Meaning.NOT_ALLOWED
        renewed = tmp_path / "renewed"
        renewed.write_text("head.payload.signature\n")
        renewed.replace(path)
        assert [node.id for node in await stage.client.nodes()] == ["n1", "n2", "n3"]


async def test_without_a_token_a_control_plane_that_wants_one_says_so() -> None:
    async with staged(RestCluster(token_required=True)) as stage:
        error = await refusal(stage.client.nodes())
        assert error.meaning is Meaning.NOT_ALLOWED
        assert "401 Unauthorized" in str(error)


@pytest.mark.parametrize("text", [b"", b" \n", b"two words", b"a\r\nX-Evil: 1", b"\xc3\xa4", b"x" * 70_000])
async def test_a_file_without_a_usable_token_is_told_and_nothing_is_sent(text: bytes, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_bytes(text)
    async with staged(RestCluster(), token_file=str(path)) as stage:
        error = await refusal(stage.client.nodes())
        assert error.meaning is Meaning.NOT_ALLOWED
        assert "holds no token" in str(error)
        path.unlink()
        assert "cannot be read" in str(await refusal(stage.client.nodes()))
        assert stage.exchanges == []


def test_an_unchanged_token_file_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "token"
    path.write_text("a.b.c")
    loads: list[int] = []
    load = TokenFile._load

    def counted(self: TokenFile) -> str:
        loads.append(1)
        return load(self)

    monkeypatch.setattr(TokenFile, "_load", counted)
    token = TokenFile(str(path))
    assert [token.read(), token.read()] == ["a.b.c", "a.b.c"]
    assert len(loads) == 1
    path.write_text("d.e.f")
    os.utime(path, ns=(1, 1))
    assert token.read() == "d.e.f"


async def test_the_server_is_known_by_the_ca_file_and_no_other(tmp_path: Path) -> None:
    mine, others = certificate(tmp_path / "mine"), certificate(tmp_path / "others")
    async with raw_server(mine[0]) as server:
        server.answers(200, [])
        async with RestClient.connect(server.url, ca_file=mine[1]) as client:
            assert await client.pools() == []
        for ca_file in (others[1], ""):
            async with RestClient.connect(server.url, ca_file=ca_file) as client:
                error = await refusal(client.set_replica_count(VOLUME, 2))
                assert error.meaning is Meaning.NOT_SENT
                assert "certificate" in str(error).lower()
        assert len(server.requests) == 1


@pytest.mark.parametrize("url", ["", "mayastor:8081", "ftp://x", "http://", "http://x?y=1"])
async def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="http://host:port"):
        async with RestClient.connect(url):
            pass


# --- what it can do ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", MayastorVersion)
async def test_what_a_version_can_do_is_found_out_without_writing(version: MayastorVersion) -> None:
    cluster = RestCluster(version)
    async with staged(cluster) as stage:
        before = cluster.front.plane
        marks = await find_marks(stage.client, await stage.client.nodes())
        assert marks.pool_cordon_call is version.traits.pool_cordon
        assert set(marks.engine_versions) == {version.traits.engine}
        proven = abilities_of(marks).counts
        assert (Ability.GO_NODE_CORDON in proven) is (
            version in {MayastorVersion.OPENEBS_4_3, MayastorVersion.OPENEBS_4_4}
        )
        assert cluster.front.plane == before
        assert [status for _, _, status in stage.writes] == [404]


@pytest.mark.parametrize(
    ("status", "answer", "known"),
    [(400, body("Deserialize"), True), (404, body("NotFound"), True), (404, b"", False), (412, body("X"), True)],
)
async def test_an_answer_with_a_body_shows_that_a_call_is_known(status: int, answer: bytes, known: bool) -> None:
    async with raw_server() as server, RestClient.connect(server.url) as client:
        server.answers(status, answer)
        assert await knows_pool_cordon(client) is known


@pytest.mark.parametrize(("status", "answer"), [(503, body("Unavailable")), (401, b""), (404, b"<html>"), (502, b"")])
async def test_an_answer_of_somebody_else_shows_nothing(status: int, answer: bytes) -> None:
    async with raw_server() as server, RestClient.connect(server.url) as client:
        server.answers(status, answer)
        await refusal(knows_pool_cordon(client))


def certificate(folder: Path) -> tuple[ssl.SSLContext, str]:
    """A server's TLS context with a certificate of its own making, and the file by which to know it."""
    import subprocess

    folder.mkdir()
    key, cert = folder / "key.pem", folder / "cert.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return context, str(cert)
