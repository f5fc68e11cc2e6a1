"""The words on the wire: Status bodies, headers and documents, as other clients than ours see them."""

from __future__ import annotations

import io
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from common.clock import SystemClock
from sandbox.fronts.kube import KubeFront
from sandbox.fronts.proxy import HoldingProxy
from sandbox.real.control_plane import ControlPlane
from tests.contract.clusters import new_store

JSON = "application/json"
MERGE = "application/merge-patch+json"
WIDGETS = "/apis/contract.couchestor.test/v1/namespaces/default/widgets"


@dataclass(slots=True)
class Wire:
    """A server, spoken to without any client of ours."""

    session: aiohttp.ClientSession
    real: bool

    async def __call__(self, method: str, path: str, body: Any = None, content_type: str = "") -> tuple[int, Any]:
        chosen = content_type or (MERGE if method == "PATCH" else JSON)
        content = body if isinstance(body, str) or body is None else json.dumps(body)
        data = None if content is None else io.BytesIO(content.encode())
        headers = {"Content-Type": chosen, "Accept": JSON}
        async with self.session.request(method, path, data=data, headers=headers) as answer:
            text = await answer.text()
            return answer.status, json.loads(text) if text.startswith("{") else text


@pytest.fixture(params=["emulator", "kube-apiserver"])
def behind(request: pytest.FixtureRequest) -> ControlPlane | None:
    """The real server, or None for the emulator."""
    if request.param == "emulator":
        return None
    running: ControlPlane = request.getfixturevalue("control_plane")
    return running


@pytest_asyncio.fixture
async def wire(behind: ControlPlane | None, tmp_path: Path) -> AsyncIterator[Wire]:
    """A server over plain HTTP; the real one through the proxy, which knows its credentials."""
    if behind is None:
        async with KubeFront(new_store()) as front, aiohttp.ClientSession(front.url) as session:
            yield Wire(session, real=False)
    else:
        async with HoldingProxy(behind.kubeconfig) as proxy, aiohttp.ClientSession(proxy.url) as session:
            yield Wire(session, real=True)


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A name that is no other test's."""
    stamp = int(SystemClock().monotonic() * 1e6)
    return re.sub(r"[^a-z0-9]+", "-", f"h{stamp}-{request.node.name}".lower())[:60].strip("-")


def widget(name: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "contract.couchestor.test/v1",
        "kind": "Widget",
        "metadata": {"name": name},
        "spec": {"word": "abc", **spec},
    }


def failure(code: int, reason: str, message: str, **details: Any) -> dict[str, Any]:
    body = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message}
    return body | {"reason": reason, "code": code} | ({"details": details} if details else {})


GROUP = {"group": "contract.couchestor.test"}


async def test_a_status_body_says_what_is_wrong(wire: Wire, name: str) -> None:
    created, body = await wire("POST", WIDGETS, widget(name))
    assert created == 201
    assert await wire("GET", f"{WIDGETS}/no-such") == (
        404,
        failure(
            404,
            "NotFound",
            'widgets.contract.couchestor.test "no-such" not found',
            **GROUP,
            name="no-such",
            kind="widgets",
        ),
    )
    assert await wire("POST", WIDGETS, widget(name)) == (
        409,
        failure(
            409,
            "AlreadyExists",
            f'widgets.contract.couchestor.test "{name}" already exists',
            **GROUP,
            name=name,
            kind="widgets",
        ),
    )
    stale = {"metadata": {"resourceVersion": "1"}, "spec": {"count": 4}}
    assert await wire("PATCH", f"{WIDGETS}/{name}", stale) == (
        409,
        failure(
            409,
            "Conflict",
            f'Operation cannot be fulfilled on widgets.contract.couchestor.test "{name}": the object has been '
            "modified; please apply your changes to the latest version and try again",
            **GROUP,
            name=name,
            kind="widgets",
        ),
    )
    message = "Invalid value: 99: spec.count in body should be less than or equal to 10"
    cause = {"reason": "FieldValueInvalid", "message": message, "field": "spec.count"}
    assert await wire("PATCH", f"{WIDGETS}/{name}", {"spec": {"count": 99}}) == (
        422,
        failure(
            422,
            "Invalid",
            f'Widget.contract.couchestor.test "{name}" is invalid: spec.count: {message}',
            **GROUP,
            name=name,
            kind="Widget",
            causes=[cause],
        ),
    )
    assert await wire("DELETE", f"{WIDGETS}/{name}") == (
        200,
        {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Success",
            "details": {"name": name, **GROUP, "kind": "widgets", "uid": body["metadata"]["uid"]},
        },
    )


async def test_a_deletion_that_only_marks_answers_with_the_object(wire: Wire, name: str) -> None:
    body = widget(name)
    body["metadata"]["finalizers"] = ["test/x"]
    await wire("POST", WIDGETS, body)
    code, marked = await wire("DELETE", f"{WIDGETS}/{name}")
    assert (code, marked["kind"]) == (200, "Widget")
    assert marked["metadata"]["deletionTimestamp"]
    assert (await wire("PATCH", f"{WIDGETS}/{name}", {"metadata": {"finalizers": None}}))[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "body", "content_type", "code", "reason"),
    [
        ("POST", WIDGETS, "{", "", 400, "BadRequest"),
        ("POST", WIDGETS, "", "", 400, "BadRequest"),
        ("POST", WIDGETS, "[]", "", 400, "BadRequest"),
        ("POST", WIDGETS, {"metadata": {"name": "x"}}, "", 400, "BadRequest"),
        ("POST", WIDGETS, {**widget("x"), "apiVersion": "v1"}, "", 400, "BadRequest"),
        ("POST", WIDGETS, {**widget("x"), "kind": "Gadget"}, "", 422, "Invalid"),
        ("PATCH", f"{WIDGETS}/{{name}}", "{", "", 400, "BadRequest"),
        ("PATCH", f"{WIDGETS}/{{name}}", "[]", "", 400, "BadRequest"),
        ("PATCH", f"{WIDGETS}/{{name}}", {"spec": {}}, JSON, 415, "UnsupportedMediaType"),
        ("PATCH", f"{WIDGETS}/{{name}}?dryRun=Some", {"spec": {}}, "", 422, "Invalid"),
        ("DELETE", f"{WIDGETS}/{{name}}/status", None, "", 405, "MethodNotAllowed"),
        ("GET", f"{WIDGETS}?limit=x", None, "", 400, "BadRequest"),
        ("GET", f"{WIDGETS}?limit=1&continue=xyz", None, "", 400, "BadRequest"),
        ("GET", f"{WIDGETS}?labelSelector=a%20b%3D", None, "", 400, "BadRequest"),
        ("GET", f"{WIDGETS}?fieldSelector=spec.count%3D1", None, "", 400, "BadRequest"),
        ("GET", "/api/v1/nonesuch", None, "", 404, "NotFound"),
        ("GET", "/apis/coordination.k8s.io/v1/nonesuch", None, "", 404, "NotFound"),
    ],
    ids=lambda value: str(value)[-50:],
)
async def test_nonsense_is_answered_with_a_status(
    wire: Wire, name: str, method: str, path: str, body: Any, content_type: str, code: int, reason: str
) -> None:
    await wire("POST", WIDGETS, widget(name))
    answered, status = await wire(method, path.format(name=name), body, content_type)
    assert (answered, status["kind"], status["code"], status["reason"]) == (code, "Status", code, reason)


@pytest.mark.parametrize(
    "path",
    [
        "/apis/nonesuch.test",
        "/apis/nonesuch.test/v1/things",
        "/apis/contract.couchestor.test/v9/widgets",
        "/apis/contract.couchestor.test/v1/nonesuch",
        "/openapi/v3/apis/nonesuch.test/v1",
    ],
)
async def test_a_path_that_leads_nowhere_is_404_without_a_status(wire: Wire, path: str) -> None:
    code, text = await wire("GET", path)
    assert code == 404
    assert isinstance(text, str)


async def test_a_list_says_how_much_is_left(wire: Wire, name: str) -> None:
    namespace = f"/apis/contract.couchestor.test/v1/namespaces/{name}/widgets"
    created = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    assert (await wire("POST", "/api/v1/namespaces", created))[0] == 201
    for item in ("a", "b", "c"):
        await wire("POST", namespace, widget(item))
    _, page = await wire("GET", f"{namespace}?limit=1")
    assert (page["kind"], page["apiVersion"]) == ("WidgetList", "contract.couchestor.test/v1")
    assert page["metadata"]["remainingItemCount"] == 2
    _, rest = await wire("GET", f"{namespace}?limit=5&continue={page['metadata']['continue']}")
    assert [item["metadata"]["name"] for item in rest["items"]] == ["b", "c"]
    assert "remainingItemCount" not in rest["metadata"]
    assert rest["metadata"]["continue"] == ""
    _, selected = await wire("GET", f"{namespace}?limit=1&labelSelector=!x")
    assert "remainingItemCount" not in selected["metadata"]
    assert selected["metadata"]["continue"]


async def test_a_watch_that_is_too_old_is_an_error_event(wire: Wire) -> None:
    async with wire.session.get(f"{WIDGETS}?watch=true&resourceVersion=1&timeoutSeconds=2") as answer:
        assert (answer.status, answer.content_type) == (200, JSON)
        event = json.loads(await answer.content.readline())
    assert event["type"] == "ERROR"
    status = event["object"]
    assert (status["kind"], status["code"], status["reason"]) == ("Status", 410, "Expired")
    assert status["message"].startswith("too old resource version: 1 (")


async def test_an_object_is_replaced_under_its_resource_version(wire: Wire, name: str) -> None:
    path = f"{WIDGETS}/{name}"
    _, created = await wire("POST", WIDGETS, widget(name, count=4))
    code, refused = await wire("PUT", path, widget(name))
    assert code == 422
    assert "metadata.resourceVersion: Invalid value: 0: must be specified for an update" in refused["message"]
    replacement = widget(name, choice="A")
    replacement["metadata"]["resourceVersion"] = created["metadata"]["resourceVersion"]
    code, replaced = await wire("PUT", path, replacement)
    assert code == 200
    assert replaced["spec"] == {"word": "abc", "choice": "A", "count": 3, "flag": True, "nested": {"deep": "here"}}
    assert (replaced["metadata"]["uid"], replaced["metadata"]["generation"]) == (created["metadata"]["uid"], 2)
    assert (await wire("PUT", path, replacement))[0] == 409
    assert (await wire("PUT", f"{WIDGETS}/other-{name}", replacement))[0] in {400, 404}
    assert (await wire("GET", f"{path}/status"))[1] == replaced


async def test_a_server_tells_what_it_serves(wire: Wire) -> None:
    _, group = await wire("GET", "/apis/contract.couchestor.test")
    preferred = {"groupVersion": "contract.couchestor.test/v1", "version": "v1"}
    older = {"groupVersion": "contract.couchestor.test/v1beta1", "version": "v1beta1"}
    assert group == {
        "kind": "APIGroup",
        "apiVersion": "v1",
        "name": "contract.couchestor.test",
        "versions": [preferred, older],
        "preferredVersion": preferred,
    }
    _, groups = await wire("GET", "/apis")
    listed = {entry["name"]: entry["preferredVersion"]["version"] for entry in groups["groups"]}
    assert {"openebs.io": "v1", "storage.billyronks.io": "v1", "coordination.k8s.io": "v1"}.items() <= listed.items()
    _, core = await wire("GET", "/api")
    assert (core["kind"], core["versions"]) == ("APIVersions", ["v1"])
    _, resources = await wire("GET", "/apis/openebs.io/v1")
    found = {entry["name"]: entry for entry in resources["resources"]}
    assert (resources["kind"], resources["groupVersion"]) == ("APIResourceList", "openebs.io/v1")
    assert {"mayastorvolumes", "mayastorvolumes/status", "diskpools", "diskpools/status"} == found.keys()
    volumes = found["mayastorvolumes"]
    assert (volumes["kind"], volumes["namespaced"], volumes["shortNames"]) == ("MayastorVolume", True, ["msv"])
    assert {"get", "list", "watch", "create", "patch", "update", "delete"} <= set(volumes["verbs"])
    _, index = await wire("GET", "/openapi/v3")
    home = index["paths"]["apis/openebs.io/v1"]["serverRelativeURL"]
    code, document = await wire("GET", home)
    assert code == 200
    assert document["openapi"].startswith("3.0")
    assert "io.openebs.v1.DiskPool" in document["components"]["schemas"]


async def test_a_server_tells_that_it_is_ready_and_which_it_is(wire: Wire) -> None:
    assert await wire("GET", "/readyz") == (200, "ok")
    assert (await wire("GET", "/version"))[1]["gitVersion"] == "v1.34.2"


async def test_a_body_that_is_too_large_is_refused(wire: Wire, name: str) -> None:
    code, status = await wire("POST", WIDGETS, widget(name, anything={"a": "x" * (4 * 2**20)}))
    assert (code, status["reason"]) == (413, "RequestEntityTooLarge")
