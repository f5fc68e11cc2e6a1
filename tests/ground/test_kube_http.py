"""
The Kubernetes API over HTTP: what is sent, what refusals become, and what a bad connection becomes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from common.kube import http
from common.kube.api import (
    LEASES,
    PERSISTENT_VOLUMES,
    STORAGE_POLICIES,
    AlreadyExistsError,
    ConflictError,
    EventType,
    ExpiredError,
    ForbiddenError,
    InvalidError,
    KubeError,
    NotFoundError,
    Resource,
    ServerError,
    TooManyRequestsError,
    UnreachableError,
)
from common.kube.http import HttpKubeApi
from tests.ground.raw_server import RawServer, Request, raw_server, response

MAYASTOR_VOLUMES = Resource("openebs.io", "v1", "mayastorvolumes", "MayastorVolume", namespaced=True)
OBJECT = {"metadata": {"name": "x", "resourceVersion": "7"}}


@contextlib.asynccontextmanager
async def connected(tmp_path: Path, *, request_seconds: float = 5.0) -> AsyncIterator[tuple[RawServer, HttpKubeApi]]:
    async with raw_server() as server:
        server.answers(200, OBJECT)
        kubeconfig = server.kubeconfig(tmp_path / "config", user={"token": "secret"})
        async with HttpKubeApi.connect(kubeconfig, request_seconds=request_seconds) as api:
            yield server, api


def status(code: int, reason: str, message: str, **details: Any) -> dict[str, Any]:
    return {"kind": "Status", "code": code, "reason": reason, "message": message, "details": details}


async def test_a_patch_is_sent_as_the_specification_shows_it(tmp_path: Path) -> None:
    async with connected(tmp_path) as (server, api):
        raw = await api.patch(MAYASTOR_VOLUMES, "pvc-abc123", {"spec": {"numReplicas": 1}}, "mayastor")
        assert json.loads(bytes(raw)) == OBJECT
        (request,) = server.requests
        assert request.method == "PATCH"
        assert request.path == "/apis/openebs.io/v1/namespaces/mayastor/mayastorvolumes/pvc-abc123"
        assert request.query == {}
        assert json.loads(request.body) == {"spec": {"numReplicas": 1}}
        assert request.headers["content-type"] == "application/merge-patch+json"
        assert request.headers["accept"] == "application/json"
        assert request.headers["authorization"] == "Bearer secret"
        assert request.headers["user-agent"].startswith("couchestor/0.")


async def test_each_method_asks_at_its_own_place(tmp_path: Path) -> None:
    async with connected(tmp_path) as (server, api):
        await api.get(PERSISTENT_VOLUMES, "pv-1")
        await api.get(LEASES, "planner", "couchestor")
        await api.patch(STORAGE_POLICIES, "p", {"status": {}}, subresource="status", dry_run=True)
        await api.create(LEASES, {"metadata": {"name": "planner"}}, "couchestor", dry_run=True)
        await api.delete(PERSISTENT_VOLUMES, "pv-1", uid="u", resource_version="9")
        await api.delete(PERSISTENT_VOLUMES, "pv-1")
        sent = [(request.method, request.path, request.query) for request in server.requests]
        assert sent == [
            ("GET", "/api/v1/persistentvolumes/pv-1", {}),
            ("GET", "/apis/coordination.k8s.io/v1/namespaces/couchestor/leases/planner", {}),
            ("PATCH", "/apis/storage.billyronks.io/v1/storagepolicies/p/status", {"dryRun": "All"}),
            ("POST", "/apis/coordination.k8s.io/v1/namespaces/couchestor/leases", {"dryRun": "All"}),
            ("DELETE", "/api/v1/persistentvolumes/pv-1", {}),
            ("DELETE", "/api/v1/persistentvolumes/pv-1", {}),
        ]
        created, deleted, deleted_any = (json.loads(server.requests[index].body) for index in (3, 4, 5))
        assert (created["apiVersion"], created["kind"]) == ("coordination.k8s.io/v1", "Lease")
        assert deleted["preconditions"] == {"uid": "u", "resourceVersion": "9"}
        assert "preconditions" not in deleted_any


async def test_a_page_is_asked_for_with_its_bounds_and_read_with_its_token(tmp_path: Path) -> None:
    async with connected(tmp_path) as (server, api):
        server.answers(200, {"metadata": {"resourceVersion": "12345", "continue": "next"}, "items": [OBJECT, OBJECT]})
        page = await api.list_page(
            PERSISTENT_VOLUMES, limit=2, continue_token="t+/=", label_selector="a=b,c!=d", field_selector="x.y=z"
        )
        assert (len(page.items), page.resource_version, page.continue_token) == (2, "12345", "next")
        assert server.requests[0].query == {
            "limit": "2",
            "continue": "t+/=",
            "labelSelector": "a=b,c!=d",
            "fieldSelector": "x.y=z",
        }
        server.answers(200, {"metadata": {"resourceVersion": "1"}, "items": None})
        assert (await api.list_page(PERSISTENT_VOLUMES)).items == ()


async def test_a_name_can_lead_nowhere_else(tmp_path: Path) -> None:
    async with connected(tmp_path) as (server, api):
        await api.get(PERSISTENT_VOLUMES, "../secrets?x=1#y")
        assert server.requests[0].path == "/api/v1/persistentvolumes/..%2Fsecrets%3Fx%3D1%23y"
        for call in (api.get(PERSISTENT_VOLUMES, ""), api.delete(PERSISTENT_VOLUMES, "")):
            with pytest.raises(InvalidError, match="the name of an object is empty"):
                await call
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("code", "body", "kind", "unknown"),
    [
        (400, status(400, "BadRequest", "no"), InvalidError, False),
        (401, status(401, "Unauthorized", "no"), ForbiddenError, False),
        (403, status(403, "Forbidden", "no"), ForbiddenError, False),
        (404, status(404, "NotFound", "no"), NotFoundError, False),
        (405, status(405, "MethodNotAllowed", "no"), KubeError, False),
        (409, status(409, "AlreadyExists", "no"), AlreadyExistsError, False),
        (409, status(409, "Conflict", "no"), ConflictError, False),
        (410, status(410, "Expired", "no"), ExpiredError, False),
        (413, status(413, "RequestEntityTooLarge", "no"), InvalidError, False),
        (422, status(422, "Invalid", "no"), InvalidError, False),
        (429, status(429, "TooManyRequests", "no"), TooManyRequestsError, False),
        (500, status(500, "InternalError", "no"), ServerError, True),
        (503, status(503, "ServiceUnavailable", "no"), ServerError, True),
        (504, status(504, "Timeout", "no"), ServerError, True),
        (302, b"", KubeError, False),
        (502, b"<html><body>\n<h1>Bad gateway</h1></body></html>", ServerError, True),
        (404, b"404 page not found\n", NotFoundError, False),
        (409, b"\xff\xfe", ConflictError, False),
        (500, b"[1,2]", ServerError, True),
    ],
)
async def test_a_refusal_becomes_the_error_that_callers_tell_apart(
    tmp_path: Path, code: int, body: Any, kind: type[KubeError], unknown: bool
) -> None:
    async with connected(tmp_path) as (server, api):
        server.answers(code, body, Location="http://127.0.0.1:1/")
        with pytest.raises(KubeError) as refusal:
            await api.patch(STORAGE_POLICIES, "tiering", {}, subresource="status")
        assert type(refusal.value) is kind
        assert refusal.value.outcome_unknown is unknown
        said = str(refusal.value)
        assert said.startswith(f"patch storagepolicies.storage.billyronks.io tiering/status: {code}: ")
        assert "\n" not in said
        assert len(server.requests) == 1, "nothing is ever tried twice"


async def test_the_servers_own_words_are_passed_on_but_not_without_end(tmp_path: Path) -> None:
    async with connected(tmp_path) as (server, api):
        server.answers(422, status(422, "Invalid", "spec.low: must be below high"))
        with pytest.raises(InvalidError, match=r"create leases.coordination.k8s.io ns/a: 422: spec.low: must be below"):
            await api.create(LEASES, {"metadata": {"name": "a"}}, "ns")
        server.answers(422, status(422, "Invalid", "x" * 100_000))
        with pytest.raises(InvalidError) as refusal:
            await api.get(PERSISTENT_VOLUMES, "a")
        assert len(str(refusal.value)) < 1000


@pytest.mark.parametrize(
    ("headers", "details", "seconds"),
    [
        ({"Retry_After": "7"}, {}, 7.0),
        ({"Retry_After": "7"}, {"retryAfterSeconds": 2}, 2.0),
        ({"Retry_After": "Wed, 21 Oct 2026 07:28:00 GMT"}, {}, None),
        ({}, {}, None),
    ],
)
async def test_a_server_that_asks_for_patience_says_how_much(
    tmp_path: Path, headers: dict[str, str], details: dict[str, int], seconds: float | None
) -> None:
    async with connected(tmp_path) as (server, api):
        server.answers(429, status(429, "TooManyRequests", "slow down", **details), **headers)
        with pytest.raises(TooManyRequestsError) as refusal:
            await api.get(PERSISTENT_VOLUMES, "a")
        assert refusal.value.retry_after_seconds == seconds


@pytest.mark.parametrize(
    "body", [b"<html>Sign in</html>", b'{"metadata": {"name": "x"', b"", b"[]", b'"x"', b"null", b'{} {"a":1}']
)
async def test_an_answer_that_is_no_object_is_never_taken_for_one(tmp_path: Path, body: bytes) -> None:
    async with connected(tmp_path) as (server, api):
        server.answers(200, body)
        for call in (
            api.get(PERSISTENT_VOLUMES, "a"),
            api.list_page(PERSISTENT_VOLUMES),
            api.patch(PERSISTENT_VOLUMES, "a", {}),
        ):
            with pytest.raises(ServerError, match="not what a Kubernetes API server says") as refusal:
                await call
            assert refusal.value.outcome_unknown
            assert "\n" not in str(refusal.value)


async def test_a_list_without_a_resource_version_cannot_be_watched_from_and_is_refused(tmp_path: Path) -> None:
    async with connected(tmp_path) as (server, api):
        server.answers(200, {"metadata": {}, "items": []})
        with pytest.raises(ServerError, match=r"without metadata\.resourceVersion"):
            await api.list_page(PERSISTENT_VOLUMES)


async def test_an_answer_that_does_not_come_in_time_leaves_the_outcome_unknown(tmp_path: Path) -> None:
    async with connected(tmp_path, request_seconds=0.2) as (server, api):
        server.respond = None
        with pytest.raises(UnreachableError, match=r"patch persistentvolumes a: no answer within 0\.2 s") as refusal:
            await api.patch(PERSISTENT_VOLUMES, "a", {})
        assert refusal.value.outcome_unknown


async def test_a_body_that_stalls_half_way_is_no_answer(tmp_path: Path) -> None:
    async with connected(tmp_path, request_seconds=0.2) as (server, api):

        async def stall(_request: Request, writer: asyncio.StreamWriter) -> None:
            writer.write(response(200, b'{"metadata": {}', Content_Length="1000"))

        server.respond = stall
        with pytest.raises(UnreachableError, match="no answer within"):
            await api.get(PERSISTENT_VOLUMES, "a")


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{", b"SSH-2.0-OpenSSH\r\n"])
async def test_a_connection_that_breaks_leaves_the_outcome_unknown(tmp_path: Path, sent: bytes) -> None:
    async with connected(tmp_path) as (server, api):

        async def hang_up(_request: Request, writer: asyncio.StreamWriter) -> None:
            writer.write(sent)
            writer.close()

        server.respond = hang_up
        with pytest.raises(UnreachableError, match="the connection broke") as refusal:
            await api.patch(PERSISTENT_VOLUMES, "a", {})
        assert refusal.value.outcome_unknown
        assert len([request for request in server.requests if request.method == "PATCH"]) == 1


async def test_a_write_that_was_never_sent_did_surely_not_happen(tmp_path: Path) -> None:
    async with raw_server() as server:
        kubeconfig = server.kubeconfig(tmp_path / "config")
    async with HttpKubeApi.connect(kubeconfig) as api:
        with pytest.raises(UnreachableError, match="cannot connect to http://127") as refusal:
            await api.patch(PERSISTENT_VOLUMES, "a", {})
        assert not refusal.value.outcome_unknown


def line(kind: str, version: str, **extra: Any) -> bytes:
    body = {"metadata": {"name": "a", "resourceVersion": version}, **extra}
    return json.dumps({"type": kind, "object": body}).encode() + b"\n"


def streams(server: RawServer, *chunks: bytes, close: bool = True) -> None:
    """Answer with a chunked stream of these pieces, and then end it, or go on in silence."""

    async def respond(_request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
        for chunk in chunks:
            writer.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
            await writer.drain()
            await asyncio.sleep(0)
        if close:
            writer.write(b"0\r\n\r\n")

    server.respond = respond


async def test_a_watch_is_asked_for_with_bookmarks_and_an_end(tmp_path: Path) -> None:
    async with connected(tmp_path) as (server, api):
        streams(server, line("ADDED", "8"), line("MODIFIED", "9") + line("DELETED", "10"), line("BOOKMARK", "11"))
        events = [event async for event in api.watch(STORAGE_POLICIES, resource_version="7", timeout_seconds=60)]
        assert [event.type for event in events] == list(EventType)
        assert json.loads(bytes(events[0].object))["metadata"]["resourceVersion"] == "8"
        assert server.requests[0].path == "/apis/storage.billyronks.io/v1/storagepolicies"
        assert server.requests[0].query == {
            "watch": "true",
            "resourceVersion": "7",
            "allowWatchBookmarks": "true",
            "timeoutSeconds": "60",
        }


async def test_an_event_may_be_megabytes_long_and_come_in_any_pieces(tmp_path: Path) -> None:
    async with connected(tmp_path) as (server, api):
        whole = line("ADDED", "8", data="x" * 3_000_000) + b"\n\r\n" + line("MODIFIED", "9", data="é")
        streams(server, *(whole[at : at + 65_521] for at in range(0, len(whole), 65_521)))
        events = [event async for event in api.watch(PERSISTENT_VOLUMES, resource_version="7")]
        assert [len(bytes(event.object)) > 3_000_000 for event in events] == [True, False]


async def test_events_come_as_they_happen_and_not_at_the_end(tmp_path: Path) -> None:
    async with connected(tmp_path) as (server, api):
        streams(server, line("ADDED", "8"), close=False)
        stream = api.watch(PERSISTENT_VOLUMES, resource_version="7")
        async with asyncio.timeout(5):
            assert (await anext(stream)).type is EventType.ADDED


async def test_a_watch_that_nobody_reads_any_more_closes_its_connection(tmp_path: Path) -> None:
    async with connected(tmp_path) as (server, api):
        closed = asyncio.Event()

        async def respond(_request: Request, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + line("ADDED", "8"))
            await writer.drain()
            with contextlib.suppress(ConnectionError):
                while True:
                    writer.write(b"\n")
                    await writer.drain()
                    await asyncio.sleep(0.005)
            closed.set()

        server.respond = respond
        stream: Any = api.watch(PERSISTENT_VOLUMES, resource_version="7")
        await anext(stream)
        await stream.aclose()
        await asyncio.wait_for(closed.wait(), 5)


@pytest.mark.parametrize(
    ("code", "kind"), [(410, ExpiredError), (500, ServerError), (403, ForbiddenError), (429, TooManyRequestsError)]
)
async def test_an_error_in_the_stream_is_that_error(tmp_path: Path, code: int, kind: type[KubeError]) -> None:
    async with connected(tmp_path) as (server, api):
        error = {"type": "ERROR", "object": status(code, "Whatever", "too old resource version: 1 (2)")}
        streams(server, line("ADDED", "8"), json.dumps(error).encode() + b"\n")
        stream = api.watch(PERSISTENT_VOLUMES, resource_version="7")
        assert (await anext(stream)).type is EventType.ADDED
        with pytest.raises(kind, match=f"watch persistentvolumes: {code}: too old resource version"):
            await anext(stream)


async def test_a_watch_from_too_long_ago_may_be_refused_at_once(tmp_path: Path) -> None:
    async with connected(tmp_path) as (server, api):
        server.answers(410, status(410, "Expired", "too old"))
        with pytest.raises(ExpiredError):
            await anext(api.watch(PERSISTENT_VOLUMES, resource_version="1"))


@pytest.mark.parametrize("nonsense", [b"<html>\n", b'{"type":"ODD","object":{}}\n', b'{"type":"ADDED"}\n', b"[]\n"])
async def test_a_line_that_is_no_event_ends_the_watch(tmp_path: Path, nonsense: bytes) -> None:
    async with connected(tmp_path) as (server, api):
        streams(server, nonsense)
        with pytest.raises(ServerError, match="not what a Kubernetes API server says"):
            await anext(api.watch(PERSISTENT_VOLUMES, resource_version="7"))


async def test_an_event_cut_short_is_a_broken_connection(tmp_path: Path) -> None:
    async with connected(tmp_path) as (server, api):
        streams(server, line("ADDED", "8")[:-20])
        with pytest.raises(UnreachableError, match="in the middle of an event"):
            await anext(api.watch(PERSISTENT_VOLUMES, resource_version="7"))


async def test_a_connection_that_breaks_in_mid_stream_is_told(tmp_path: Path) -> None:
    async with connected(tmp_path) as (server, api):

        async def respond(_request: Request, writer: asyncio.StreamWriter) -> None:
            event = line("ADDED", "8")
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            writer.write(f"{len(event):x}\r\n".encode() + event + b"\r\n")
            writer.close()

        server.respond = respond
        stream = api.watch(PERSISTENT_VOLUMES, resource_version="7")
        await anext(stream)
        with pytest.raises(UnreachableError, match="the connection broke"):
            await anext(stream)


async def test_a_silent_watch_is_given_up_when_the_server_should_have_ended_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "WATCH_GRACE_SECONDS", 0.2)
    async with connected(tmp_path) as (server, api):
        streams(server, close=False)
        with pytest.raises(UnreachableError, match="nothing was heard for too long"):
            await anext(api.watch(PERSISTENT_VOLUMES, resource_version="7", timeout_seconds=0))


async def test_a_line_without_end_is_not_kept_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MAX_LINE_BYTES", 100_000)
    async with connected(tmp_path) as (server, api):
        streams(server, *(b"x" * 60_000 for _ in range(4)), close=False)
        with pytest.raises(ServerError, match="longer than 100000 bytes"):
            await anext(api.watch(PERSISTENT_VOLUMES, resource_version="7"))


async def test_the_served_versions_of_a_group_come_with_the_preferred_one_first(tmp_path: Path) -> None:
    async with connected(tmp_path) as (server, api):
        versions = [{"groupVersion": f"openebs.io/{name}", "version": name} for name in ("v1beta1", "v1alpha1", "v1")]
        server.answers(200, {"kind": "APIGroup", "versions": versions, "preferredVersion": versions[2]})
        assert await api.served_versions("openebs.io") == ("v1", "v1beta1", "v1alpha1")
        server.answers(200, {"kind": "APIVersions", "versions": ["v1"]})
        assert await api.served_versions("") == ("v1",)
        server.answers(404, b"404 page not found")
        assert await api.served_versions("nothing.io") == ()
        assert [request.path for request in server.requests] == ["/apis/openebs.io", "/api", "/apis/nothing.io"]


async def test_the_schema_of_a_kind_is_found_by_its_kind_and_not_by_its_name(tmp_path: Path) -> None:
    def schema(kind: str, group: str = "openebs.io") -> dict[str, Any]:
        known = [{"group": group, "version": "v1", "kind": kind}]
        return {"type": "object", "x-kubernetes-group-version-kind": known, "properties": {kind: {"$ref": "#/x"}}}

    async with connected(tmp_path) as (server, api):
        schemas = {"a": {"type": "string"}, "b": schema("MayastorVolume", "other.io"), "c": schema("MayastorVolume")}
        server.answers(200, {"openapi": "3.0.0", "components": {"schemas": schemas}})
        assert await api.served_schema(MAYASTOR_VOLUMES) == schemas["c"]
        assert await api.served_schema(Resource("openebs.io", "v1", "diskpools", "DiskPool")) is None
        server.answers(404, b"")
        assert await api.served_schema(PERSISTENT_VOLUMES) is None
        paths = [request.path for request in server.requests]
        assert paths == ["/openapi/v3/apis/openebs.io/v1", "/openapi/v3/apis/openebs.io/v1", "/openapi/v3/api/v1"]
