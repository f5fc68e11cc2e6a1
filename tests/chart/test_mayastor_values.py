"""How the chart is told of Mayastor: flags, files, rights, the way out, and values that make no sense."""

import subprocess
from typing import Any

import pytest

from common.config import parse_settings
from migrator.__main__ import BackendChoice, Settings
from sandbox.real.tools import tool
from tests.chart.chart import CHART, NAMESPACE, RELEASE, Object, container, of_kind, render
from tests.real import require_real

URL = "mayastor.rest.url=https://openebs-api-rest.openebs.svc:8080"
REST = ("mayastor.backend=rest", URL)
TOKEN = "mayastor.rest.tokenSecret.name=mayastor-jwt"


@pytest.fixture(autouse=True)
def _helm() -> None:
    require_real("helm")


def pod(*settings: str) -> Object:
    found: Object = of_kind(render(*settings), "Deployment")["migrator"]["spec"]["template"]["spec"]
    return found


def settings_of(*settings: str) -> Any:
    """What the migrator makes of its arguments."""
    arguments = container(of_kind(render(*settings), "Deployment")["migrator"])["args"]
    return parse_settings(Settings, arguments, {}, prog="migrator", description="")


def rights(*settings: str) -> set[str]:
    """What the migrator may touch in Mayastor's namespace."""
    return {
        resource
        for one in render(*settings)
        if one["kind"] == "Role" and one["metadata"]["namespace"] == "mayastor"
        for rule in one["rules"]
        for resource in rule["resources"]
    }


def test_without_a_url_it_is_as_it_was() -> None:
    told = settings_of()
    assert (told.backend, told.mayastor_rest_url) == (BackendChoice.AUTO, "")
    assert not {"volumes"} & set(pod())
    assert "volumeMounts" not in pod()["containers"][0]


def test_the_migrator_is_told_where_the_rest_api_is() -> None:
    told = settings_of(*REST)
    assert told.backend is BackendChoice.REST
    assert told.mayastor_rest_url == "https://openebs-api-rest.openebs.svc:8080"
    assert (told.mayastor_token_file, told.mayastor_ca_file) == ("", "")


@pytest.mark.parametrize("ca", ["configMap", "secret"])
def test_token_and_authority_are_files_that_the_flags_name(ca: str) -> None:
    settings = (*REST, TOKEN, "mayastor.rest.tokenSecret.key=jwt", f"mayastor.rest.ca.{ca}=mayastor-ca")
    told, found = settings_of(*settings), pod(*settings)
    mounts = {mount["mountPath"]: mount["name"] for mount in found["containers"][0]["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in found["volumes"]}
    assert all(mount["readOnly"] for mount in found["containers"][0]["volumeMounts"])
    source = volumes[mounts[told.mayastor_token_file.rpartition("/")[0]]]["secret"]
    assert (source["secretName"], source["items"]) == ("mayastor-jwt", [{"key": "jwt", "path": "jwt"}])
    assert told.mayastor_token_file.endswith("/jwt")
    assert source["defaultMode"] & 0o007 == 0, "nobody else reads the token"
    authority = volumes[mounts[told.mayastor_ca_file.rpartition("/")[0]]][ca]
    assert authority.get("name", authority.get("secretName")) == "mayastor-ca"
    assert "subPath" not in str(found["containers"][0]["volumeMounts"]), "a renewed token would never arrive"


def test_volumes_of_ones_own_stand_beside() -> None:
    settings = (
        *REST,
        TOKEN,
        "migrator.volumes[0].name=mine",
        "migrator.volumeMounts[0].name=mine",
        "migrator.volumeMounts[0].mountPath=/mine",
    )
    found = pod(*settings)
    assert [volume["name"] for volume in found["volumes"]] == ["mayastor-token", "mine"]
    assert [mount["name"] for mount in found["containers"][0]["volumeMounts"]] == ["mayastor-token", "mine"]


def test_only_the_migrator_gets_them() -> None:
    deployments = of_kind(render(*REST, TOKEN), "Deployment")
    for name in ("scorer", "planner"):
        assert "volumes" not in deployments[name]["spec"]["template"]["spec"]
        assert not [a for a in container(deployments[name])["args"] if "mayastor" in a]


def test_over_rest_volumes_need_no_right_and_pools_only_if_their_labels_count() -> None:
    assert rights() == rights(URL) == {"mayastorvolumes", "diskpools"}
    assert rights(*REST) == {"diskpools"}
    none = render(*REST, "mayastor.rest.readDiskPools=false")
    assert "mayastor" not in {one["metadata"].get("namespace") for one in none}
    assert rights("mayastor.backend=crd", "mayastor.rest.readDiskPools=false") == {"mayastorvolumes", "diskpools"}


def test_the_way_out_can_be_narrowed_to_what_the_migrator_needs() -> None:
    policies = of_kind(render(*REST, "networkPolicy.egress.enabled=true"), "NetworkPolicy")
    assert {name for name, one in policies.items() if "Egress" in one["spec"]["policyTypes"]} == {"migrator"}
    rules = policies["migrator"]["spec"]["egress"]
    ports = [sorted({port["port"] for port in rule["ports"]}) for rule in rules]
    assert ports == [[53], [443, 6443], [8081]]
    assert [rule.get("to") for rule in rules] == [
        None,
        None,
        [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "mayastor"}}}],
    ]
    assert "egress" not in of_kind(render(*REST), "NetworkPolicy")["migrator"]["spec"]


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        (("mayastor.backend=rest",), "url"),
        (("mayastor.backend=moac",), "backend"),
        (("mayastor.rest.url=openebs-api-rest:8081",), "url"),
        (("mayastor.rest.url=http://user:secret@mayastor",), "url"),
        (("mayastor.rest.port=0",), "port"),
        (("mayastor.rest.tokenSecret.key=a/b",), "key"),
        (("mayastor.rest.ca.configMap=a", "mayastor.rest.ca.secret=b"), "ca"),
        (("mayastor.rest.tokn=x",), "tokn"),
        (("migrator.flags.Dry_Run=true",), "Dry_Run"),
        (("migrator.replicas=-1",), "replicas"),
        (("networkPolicy.enabled=perhaps",), "enabled"),
    ],
)
def test_values_that_make_no_sense_are_refused(settings: tuple[str, ...], complaint: str) -> None:
    chosen: list[str] = [word for setting in settings for word in ("--set", setting)]
    command: list[str] = [str(tool("helm")), "template", RELEASE, str(CHART), "--namespace", NAMESPACE, *chosen]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert ran.returncode != 0
    assert complaint in ran.stderr
