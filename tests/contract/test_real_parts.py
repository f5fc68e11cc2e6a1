"""The originals start, serve what the sandbox builds on, survive a restart, and leave nothing behind."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web
from kubernetes_asyncio import config
from kubernetes_asyncio.client import ApiClient, Configuration

from sandbox.real.control_plane import ControlPlane, ControlPlaneError, Identity
from sandbox.real.prometheus import Prometheus, ScrapeTarget
from tests.real import require_real

pytestmark = pytest.mark.asyncio(loop_scope="module")

READER = Identity("reader", ("readers",))
WIDGETS = "/apis/tests.couchestor.local/v1/widgets"
WIDGET_CRD = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.tests.couchestor.local}
spec:
  group: tests.couchestor.local
  scope: Cluster
  names: {plural: widgets, singular: widget, kind: Widget}
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            x-kubernetes-validations: [{rule: self.low < self.high, message: low must be below high}]
            properties:
              low: {type: integer, default: 500}
              high: {type: integer, default: 5000}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: not-a-definition}
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def control_plane() -> AsyncIterator[ControlPlane]:
    require_real("etcd", "kube-apiserver")
    async with ControlPlane([READER]) as running:
        yield running


@pytest.fixture
def crd(tmp_path: Path) -> Path:
    path = tmp_path / "widgets.yaml"
    path.write_text(WIDGET_CRD)
    return path


class Refused(Exception):  # noqa: N818 - reads as what happened
    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status} {message}")
        self.status = status


async def call(kubeconfig: Path, method: str, path: str, body: object = None) -> Any:
    """One call with nothing but the kubeconfig, by the library that the services use. Raises Refused."""
    configuration = Configuration()
    await config.load_kube_config(config_file=str(kubeconfig), client_configuration=configuration)
    async with ApiClient(configuration) as client:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        answer = await client.call_api(
            path,
            method,
            header_params=headers,
            body=body,
            auth_settings=["BearerToken"],
            _preload_content=False,
            _return_http_data_only=True,
        )
        content = json.loads(await answer.read())
        if answer.status >= 300:
            raise Refused(answer.status, content["message"])
        return content


async def until(condition: Callable[[], Awaitable[object]], seconds: float = 20.0) -> None:
    """Wait until the condition holds. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 - what is waited for happens in another process
            await asyncio.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def who_am_i(kubeconfig: Path) -> Any:
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    answer = await call(kubeconfig, "POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", review)
    return answer["status"]["userInfo"]


def widget(name: str, **spec: int) -> dict[str, object]:
    return {"apiVersion": "tests.couchestor.local/v1", "kind": "Widget", "metadata": {"name": name}, "spec": spec}


async def test_the_api_server_says_which_version_it_is(control_plane: ControlPlane) -> None:
    version = await call(control_plane.kubeconfig, "GET", "/version")
    assert version["gitVersion"].startswith("v1.")
    assert version["major"] == "1"


async def test_a_definition_once_installed_is_served_with_defaults_and_pruning(
    control_plane: ControlPlane, crd: Path
) -> None:
    await control_plane.install_crds([crd])
    created = await call(control_plane.kubeconfig, "POST", WIDGETS, widget("one", high=10_000, unknown=1))
    assert created["spec"] == {"low": 500, "high": 10_000}


async def test_a_rule_of_the_definition_refuses_what_breaks_it(control_plane: ControlPlane, crd: Path) -> None:
    await control_plane.install_crds([crd])
    with pytest.raises(Refused, match="low must be below high"):
        await call(control_plane.kubeconfig, "POST", WIDGETS, widget("crossed", low=6000))


async def test_installing_a_definition_twice_is_harmless_and_a_folder_will_do(
    control_plane: ControlPlane, crd: Path
) -> None:
    await control_plane.install_crds([crd])
    await control_plane.install_crds([crd.parent])
    assert (await call(control_plane.kubeconfig, "GET", WIDGETS))["kind"] == "WidgetList"


async def test_a_definition_that_the_server_refuses_is_reported_in_its_words(
    control_plane: ControlPlane, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text(WIDGET_CRD.replace("self.low < self.high", "self.low <").replace("widgets", "gadgets"))
    with pytest.raises(ControlPlaneError, match="compilation failed"):
        await control_plane.install_crds([broken])


async def test_a_file_without_definitions_is_not_taken_for_one(control_plane: ControlPlane, tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("kind: ConfigMap\n")
    with pytest.raises(ControlPlaneError, match="holds no CustomResourceDefinition"):
        await control_plane.install_crds([tmp_path / "empty.yaml"])


async def test_an_identity_is_known_by_name_and_groups_and_may_only_do_what_rbac_allows(
    control_plane: ControlPlane,
) -> None:
    kubeconfig = control_plane.kubeconfig_for(READER)
    me = await who_am_i(kubeconfig)
    assert (me["username"], set(me["groups"])) == ("reader", {"readers", "system:authenticated"})
    with pytest.raises(Refused, match="cannot list resource"):
        await call(kubeconfig, "GET", "/api/v1/persistentvolumes")
    rbac = "/apis/rbac.authorization.k8s.io/v1"
    group = {"kind": "Group", "name": "readers", "apiGroup": "rbac.authorization.k8s.io"}
    role = {"kind": "ClusterRole", "name": "read-volumes", "apiGroup": "rbac.authorization.k8s.io"}
    rule = {"apiGroups": [""], "resources": ["persistentvolumes"], "verbs": ["list"]}
    metadata = {"name": "read-volumes"}
    await call(control_plane.kubeconfig, "POST", f"{rbac}/clusterroles", {"metadata": metadata, "rules": [rule]})
    binding = {"metadata": metadata, "roleRef": role, "subjects": [group]}
    await call(control_plane.kubeconfig, "POST", f"{rbac}/clusterrolebindings", binding)
    assert await eventually_allowed(kubeconfig, "/api/v1/persistentvolumes")


async def eventually_allowed(kubeconfig: Path, path: str) -> bool:
    """The authorizer reads roles from a cache, so a new one counts a moment later."""

    async def allowed() -> bool:
        try:
            await call(kubeconfig, "GET", path)
        except Refused as refused:
            if refused.status != 403:
                raise
            return False
        return True

    await until(allowed)
    return True


async def test_a_service_account_gets_a_token_while_the_server_runs(control_plane: ControlPlane) -> None:
    account = {"metadata": {"name": "planner"}}
    await call(control_plane.kubeconfig, "POST", "/api/v1/namespaces/default/serviceaccounts", account)
    me = await who_am_i(await control_plane.service_account_kubeconfig("default", "planner"))
    assert me["username"] == "system:serviceaccount:default:planner"


async def test_a_token_for_a_service_account_that_is_not_there_is_refused(control_plane: ControlPlane) -> None:
    with pytest.raises(ControlPlaneError, match='serviceaccounts "nobody" not found'):
        await control_plane.service_account_kubeconfig("default", "nobody")


async def test_a_stranger_is_not_let_in(control_plane: ControlPlane) -> None:
    trust = control_plane.directory / "kubeconfig.stranger"
    stranger = json.loads(control_plane.kubeconfig.read_text())
    stranger["users"][0]["user"]["token"] = "wrong"
    trust.write_text(json.dumps(stranger))
    with pytest.raises(Refused, match="Unauthorized"):
        await call(trust, "GET", "/version")


async def test_a_restarted_control_plane_keeps_its_address_its_tokens_and_its_objects(
    control_plane: ControlPlane,
) -> None:
    volume = {"metadata": {"name": "kept"}}
    await call(control_plane.kubeconfig, "POST", "/api/v1/namespaces/default/configmaps", volume)
    admin, reader = control_plane.kubeconfig.read_text(), control_plane.kubeconfig_for(READER).read_text()
    await control_plane.stop()
    assert (control_plane.etcd.pid, control_plane.api_server.pid) == (None, None)
    await control_plane.start()
    assert (control_plane.kubeconfig.read_text(), control_plane.kubeconfig_for(READER).read_text()) == (admin, reader)
    kept = await call(control_plane.kubeconfig, "GET", "/api/v1/namespaces/default/configmaps/kept")
    assert kept["metadata"]["name"] == "kept"
    assert (await who_am_i(control_plane.kubeconfig_for(READER)))["username"] == "reader"


async def test_an_api_server_that_stops_ends_the_watches_of_its_clients(control_plane: ControlPlane) -> None:
    configuration = Configuration()
    await config.load_kube_config(config_file=str(control_plane.kubeconfig), client_configuration=configuration)
    async with ApiClient(configuration) as client:
        watch = await client.call_api(
            "/api/v1/namespaces",
            "GET",
            query_params=[("watch", "1")],
            auth_settings=["BearerToken"],
            _preload_content=False,
            _return_http_data_only=True,
        )
        assert json.loads(await watch.content.readline())["type"] == "ADDED"
        await control_plane.api_server.stop()
        async for _ in watch.content:  # to its orderly end: a connection that is torn raises ClientPayloadError
            pass
    await control_plane.api_server.start()


async def test_an_api_server_that_crashed_starts_again_beside_the_same_etcd(control_plane: ControlPlane) -> None:
    etcd = control_plane.etcd.pid
    await control_plane.api_server.kill()
    with pytest.raises(aiohttp.ClientConnectorError):
        await call(control_plane.kubeconfig, "GET", "/version")
    await control_plane.api_server.start()
    assert (await call(control_plane.kubeconfig, "GET", "/api/v1/namespaces/default"))["kind"] == "Namespace"
    assert control_plane.etcd.pid == etcd


async def test_a_control_plane_that_is_given_up_while_it_starts_leaves_nothing_behind() -> None:
    require_real("etcd", "kube-apiserver")
    plane = ControlPlane()
    starting = asyncio.create_task(plane.__aenter__())

    async def both_run() -> bool:
        return None not in (plane.etcd.pid, plane.api_server.pid)

    await until(both_run)
    pids = [plane.etcd.pid, plane.api_server.pid]
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert not [pid for pid in pids if pid is not None and alive(pid)]
    assert not plane.directory.exists()


@pytest_asyncio.fixture(loop_scope="module")
async def exporter() -> AsyncIterator[str]:
    """An exporter of one gauge; yields its host:port."""

    async def metrics(request: web.Request) -> web.Response:
        text = 'openebs_volume_iops{volume_id="pvc-abc123"} 5234.5\n'
        return web.Response(text=text, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    application = web.Application()
    application.router.add_get("/metrics", metrics)
    application.router.add_get("/other", metrics)
    runner = web.AppRunner(application, shutdown_timeout=1.0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0]
    yield f"{host}:{port}"
    await runner.cleanup()


async def query(prometheus: Prometheus, expression: str) -> list[Any]:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{prometheus.url}/api/v1/query", params={"query": expression}) as answer,
    ):
        content = await answer.json()
        assert content["status"] == "success", content
        result: list[Any] = content["data"]["result"]
        return result


async def samples(prometheus: Prometheus, expression: str, count: int) -> list[Any]:
    """The answer to a query as soon as it has that many series."""
    result: list[Any] = []

    async def enough() -> bool:
        result[:] = await query(prometheus, expression)
        return len(result) == count

    await until(enough)
    return result


def fast(*targets: ScrapeTarget) -> Prometheus:
    require_real("prometheus")
    return Prometheus(targets, scrape_interval=timedelta(milliseconds=200))


async def test_prometheus_scrapes_its_targets_and_answers_queries(exporter: str) -> None:
    targets = (
        ScrapeTarget("mayastor", exporter, labels={"pool": "pool-sata-1"}),
        ScrapeTarget("mayastor", exporter, metrics_path="/other", labels={"pool": "pool-sata-2"}),
    )
    async with fast(*targets) as prometheus:
        first, second = await samples(prometheus, "sort(avg_over_time(openebs_volume_iops[3600s]))", 2)
    assert {first["metric"]["pool"], second["metric"]["pool"]} == {"pool-sata-1", "pool-sata-2"}
    assert first["metric"]["volume_id"] == "pvc-abc123"
    assert first["value"][1] == "5234.5"


async def test_prometheus_keeps_its_address_and_its_samples_over_an_outage(exporter: str) -> None:
    async with fast(ScrapeTarget("mayastor", exporter)) as prometheus:
        await samples(prometheus, "openebs_volume_iops", 1)
        before = float((await query(prometheus, "timestamp(openebs_volume_iops)"))[0]["value"][1])
        await prometheus.stop()
        with pytest.raises(aiohttp.ClientConnectorError):
            await query(prometheus, "openebs_volume_iops")
        await prometheus.start()
        series = await samples(prometheus, f"openebs_volume_iops @ {before:.3f}", 1)
        assert series[0]["value"][1] == "5234.5"


async def test_prometheus_takes_new_targets_without_a_restart(exporter: str) -> None:
    async with fast() as prometheus:
        pid = prometheus.process.pid
        await prometheus.scrape([ScrapeTarget("late", exporter)])
        assert (await samples(prometheus, "openebs_volume_iops", 1))[0]["metric"]["job"] == "late"
        assert prometheus.process.pid == pid


async def test_what_was_started_is_gone_at_the_end_with_its_files(exporter: str) -> None:
    async with fast(ScrapeTarget("mayastor", exporter)) as prometheus:
        pid = prometheus.process.pid
        assert pid is not None
        assert alive(pid)
    assert not alive(pid)
    assert not prometheus.directory.exists()
