"""What helm makes of the chart: pods that may do little, rights that are spelt out, flags that exist."""

import dataclasses
import importlib
import tomllib
from typing import Any

import pytest

from tests.chart.chart import (
    CHART,
    NAMESPACE,
    RELEASE,
    SERVICES,
    Object,
    container,
    crd,
    helm,
    of_kind,
    render,
    values,
)
from tests.real import require_real


@pytest.fixture(autouse=True)
def _helm() -> None:
    require_real("helm")


def test_helm_lint_finds_nothing() -> None:
    assert "0 chart(s) failed" in helm("lint", "--strict", str(CHART))


def test_it_installs_our_resources() -> None:
    definitions = of_kind(render(crds=True), "CustomResourceDefinition")
    assert set(definitions) == {crd(name)["metadata"]["name"] for name in ("storagepolicies", "volumemigrations")}


def test_three_deployments_one_image_three_commands() -> None:
    deployments = of_kind(render(), "Deployment")
    assert set(deployments) == set(SERVICES)
    assert {container(one)["image"] for one in deployments.values()} == {"couchestor:0.1.0"}
    assert [container(deployments[name])["command"] for name in SERVICES] == [[f"couchestor-{n}"] for n in SERVICES]


def test_the_commands_are_those_of_the_package() -> None:
    scripts = tomllib.loads((CHART.parents[1] / "pyproject.toml").read_text())["project"]["scripts"]
    assert {f"couchestor-{name}" for name in SERVICES} <= set(scripts)


def test_the_image_is_pinned_and_a_digest_wins() -> None:
    digest = "sha256:" + "a" * 64
    for settings, image in (
        ((), "couchestor:0.1.0"),
        (("image.tag=1.2.3",), "couchestor:1.2.3"),
        (("image.repository=example.com/c", f"image.digest={digest}", "image.tag=1"), f"example.com/c@{digest}"),
    ):
        assert {container(one)["image"] for one in of_kind(render(*settings), "Deployment").values()} == {image}


def test_the_app_version_is_the_packages() -> None:
    project = tomllib.loads((CHART.parents[1] / "pyproject.toml").read_text())["project"]
    assert f"appVersion: {project['version']}\n" in (CHART / "Chart.yaml").read_text()


@pytest.mark.parametrize("name", SERVICES)
def test_a_pod_may_do_little(name: str) -> None:
    pod = of_kind(render(), "Deployment")[name]["spec"]["template"]["spec"]
    (only,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 1000
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert only["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    assert pod["enableServiceLinks"] is False
    assert {"cpu", "memory"} <= set(only["resources"]["requests"])
    assert "memory" in only["resources"]["limits"]


@pytest.mark.parametrize("name", SERVICES)
def test_probes_ask_for_life_and_readiness(name: str) -> None:
    only = container(of_kind(render(), "Deployment")[name])
    ports = {port["name"]: port["containerPort"] for port in only["ports"]}
    assert ports == {"grpc": 50051 + SERVICES.index(name), "metrics": 8080, "health": 8081}
    assert only["livenessProbe"]["httpGet"] == {"path": "/livez", "port": "health"}
    assert only["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "health"}


def test_only_who_asks_kubernetes_gets_a_token() -> None:
    objects = render()
    pods = {name: one["spec"]["template"]["spec"] for name, one in of_kind(objects, "Deployment").items()}
    assert {name: pod["automountServiceAccountToken"] for name, pod in pods.items()} == {
        "scorer": False,
        "planner": True,
        "migrator": True,
    }
    bound = {s["name"] for one in objects if one["kind"].endswith("Binding") for s in one["subjects"]}
    assert bound == {f"{RELEASE}-planner", f"{RELEASE}-migrator"}
    accounts = of_kind(objects, "ServiceAccount")
    assert {pod["serviceAccountName"] for pod in pods.values()} == {f"{RELEASE}-{name}" for name in accounts}


def test_a_planner_and_a_migrator_stand_by_on_another_node_and_are_not_drained_together() -> None:
    objects = render()
    deployments, budgets = of_kind(objects, "Deployment"), of_kind(objects, "PodDisruptionBudget")
    assert set(budgets) == {"planner", "migrator"}
    for name, budget in budgets.items():
        spec = deployments[name]["spec"]
        assert spec["replicas"] == 2
        assert spec["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
        labels = spec["selector"]["matchLabels"]
        (spread,) = spec["template"]["spec"]["topologySpreadConstraints"]
        assert (spread["topologyKey"], spread["whenUnsatisfiable"]) == ("kubernetes.io/hostname", "ScheduleAnyway")
        assert spread["labelSelector"]["matchLabels"] == labels
        assert budget["spec"] == {"maxUnavailable": 1, "selector": {"matchLabels": labels}}


def test_one_replica_alone_has_no_budget_that_would_hold_up_a_drain() -> None:
    objects = render("planner.replicas=1", "migrator.replicas=1")
    assert of_kind(objects, "PodDisruptionBudget") == {}


def test_plain_text_is_said_explicitly() -> None:
    for deployment in of_kind(render(), "Deployment").values():
        assert "--insecure-bind" in container(deployment)["args"]


def test_every_flag_in_the_chart_is_one_of_the_services() -> None:
    for name, deployment in of_kind(render(), "Deployment").items():
        settings = importlib.import_module(f"{name}.__main__").Settings
        flags = {f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(settings)}
        used = [argument.partition("=")[0] for argument in container(deployment)["args"]]
        assert set(used) <= flags, name
        assert len(set(used)) == len(used), f"{name}: a flag twice: {used}"


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_understands_its_arguments(name: str) -> None:
    from common.config import parse_settings

    settings = importlib.import_module(f"{name}.__main__").Settings
    arguments = container(of_kind(render(), "Deployment")[name])["args"]
    parsed: Any = parse_settings(settings, arguments, {}, prog=name, description="")
    assert parsed.grpc_addr == f":{50051 + SERVICES.index(name)}"
    assert parsed.insecure_bind is True
    assert parsed.log_json is True


def arguments(*settings: str) -> dict[str, list[str]]:
    """The arguments of each service."""
    return {name: container(one)["args"] for name, one in of_kind(render(*settings), "Deployment").items()}


def test_a_services_own_flag_wins_over_the_common_one_whatever_its_value() -> None:
    given = arguments("flags.log-json=true", "migrator.flags.log-json=false", "scorer.flags.drain-seconds=0")
    assert "--log-json=false" in given["migrator"]
    assert "--log-json=true" not in given["migrator"]
    assert "--log-json=true" in given["planner"]
    assert "--drain-seconds=0" in given["scorer"]


def test_a_flag_set_to_null_is_left_to_the_service() -> None:
    assert not [a for a in arguments("scorer.flags.prometheus-url=null")["scorer"] if a.startswith("--prometheus-url")]


def test_large_numbers_stay_whole() -> None:
    assert (
        "--max-concurrent-migrations=12345678"
        in arguments("migrator.flags.max-concurrent-migrations=12345678")["migrator"]
    )


def test_the_planner_is_told_where_the_others_are() -> None:
    objects = render()
    given = container(of_kind(objects, "Deployment")["planner"])["args"]
    services = of_kind(objects, "Service")
    for name in ("scorer", "migrator"):
        port = next(port["port"] for port in services[name]["spec"]["ports"] if port["name"] == "grpc")
        assert f"--{name}-addr={services[name]['metadata']['name']}:{port}" in given


def test_selectors_select_their_own_pods_and_no_others() -> None:
    objects = render()
    labels = {
        name: one["spec"]["template"]["metadata"]["labels"] for name, one in of_kind(objects, "Deployment").items()
    }

    def selected(selector: dict[str, str]) -> set[str]:
        return {name for name, has in labels.items() if selector.items() <= has.items()}

    for name in SERVICES:
        assert selected(of_kind(objects, "Deployment")[name]["spec"]["selector"]["matchLabels"]) == {name}
        assert selected(of_kind(objects, "Service")[name]["spec"]["selector"]) == {name}
        assert selected(of_kind(objects, "NetworkPolicy")[name]["spec"]["podSelector"]["matchLabels"]) == {name}


def callers(policy: Object, port: str) -> list[Object]:
    """Who a NetworkPolicy lets through to a port."""
    return [
        peer
        for rule in policy["spec"]["ingress"]
        for peer in rule["from"]
        if port in {p["port"] for p in rule["ports"]}
    ]


def test_only_the_planner_may_call_and_only_prometheus_may_scrape() -> None:
    policies = of_kind(render(), "NetworkPolicy")
    prometheus = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]
    for name in ("scorer", "migrator"):
        (caller,) = callers(policies[name], "grpc")
        assert caller["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "planner"
    assert callers(policies["planner"], "grpc") == []
    for policy in policies.values():
        assert policy["spec"]["policyTypes"] == ["Ingress"]
        assert callers(policy, "metrics") == prometheus


def test_clients_can_be_let_in_and_the_policies_turned_off() -> None:
    policies = of_kind(render("networkPolicy.clients[0].podSelector.matchLabels.app=ops"), "NetworkPolicy")
    for policy in policies.values():
        assert {"podSelector": {"matchLabels": {"app": "ops"}}} in callers(policy, "grpc")
    assert of_kind(render("networkPolicy.enabled=false"), "NetworkPolicy") == {}


def test_rights_are_spelt_out() -> None:
    rules = [rule for one in render() if one["kind"] in {"Role", "ClusterRole"} for rule in one["rules"]]
    assert rules
    for rule in rules:
        assert set(rule) <= {"apiGroups", "resources", "resourceNames", "verbs"}
        assert not any("*" in text for words in rule.values() for text in words), rule
        assert not {"escalate", "bind", "impersonate", "update", "deletecollection"} & set(rule["verbs"]), rule
        assert "secrets" not in rule["resources"], rule


def test_only_the_migrator_may_touch_mayastor_and_only_in_its_namespace() -> None:
    objects = render("mayastor.namespace=openebs")
    rules = {
        (one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"])
        for one in objects
        if one["kind"] in {"Role", "ClusterRole"} and any("openebs.io" in rule["apiGroups"] for rule in one["rules"])
    }
    assert rules == {("Role", "openebs", f"{RELEASE}-migrator")}
    assert "--mayastor-namespace=openebs" in container(of_kind(objects, "Deployment")["migrator"])["args"]


def test_every_role_is_bound_and_every_binding_has_its_role() -> None:
    objects = render()
    roles = {
        (o["kind"], o["metadata"].get("namespace"), o["metadata"]["name"])
        for o in objects
        if o["kind"].endswith("Role")
    }
    bound = {
        (o["roleRef"]["kind"], o["metadata"].get("namespace"), o["roleRef"]["name"])
        for o in objects
        if o["kind"].endswith("Binding")
    }
    assert roles == bound
    for binding in (o for o in objects if o["kind"].endswith("Binding")):
        assert [subject["namespace"] for subject in binding["subjects"]] == [NAMESPACE]


def test_values_name_each_service_alike() -> None:
    content = values()
    shapes = {name: set(content[name]) for name in SERVICES}
    assert shapes["scorer"] == shapes["planner"] == shapes["migrator"]


def test_another_release_name_and_long_names_still_make_valid_names() -> None:
    for name in ("x", "a" * 53):
        rendered = helm("template", name, str(CHART), "--kube-version", "1.34.2")
        for line in rendered.splitlines():
            if line.startswith("  name: "):
                assert len(line.removeprefix("  name: ")) <= 63, line
