"""A real API server takes every object of the chart, and takes or refuses policies as their documentation says."""

import asyncio
import re
import shlex
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import pytest_asyncio
import yaml

from cli.__main__ import parser
from common.resources.policy import PolicySpec, StoragePolicy, policy_from
from sandbox.real.control_plane import ControlPlane
from tests.chart.chart import CHART, CRDS, NAMESPACE, Object, helm, render
from tests.chart.cluster import Cluster, connect, namespace
from tests.real import require_real

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster() -> AsyncIterator[Cluster]:
    """An API server with our resources and the namespaces that the chart is for."""
    require_real("kube-apiserver", "etcd")
    async with ControlPlane() as control_plane:
        await control_plane.install_crds([CRDS])
        async with connect(control_plane.kubeconfig) as made:
            await made.make(namespace(NAMESPACE), namespace("mayastor"))
            yield made


async def test_every_object_of_the_chart_is_accepted(cluster: Cluster) -> None:
    require_real("helm")
    for settings in ((), ("networkPolicy.clients[0].podSelector.matchLabels.app=ops", "scorer.podAnnotations.a=b")):
        for item in render(*settings):
            status, answer = await cluster.create(item)
            assert status == 201, (item["kind"], item["metadata"]["name"], answer)


async def test_an_object_with_a_field_that_does_not_exist_would_not_be(cluster: Cluster) -> None:
    require_real("helm")
    deployment = next(item for item in render() if item["kind"] == "Deployment")
    status, answer = await cluster.create({**deployment, "spec": {**deployment["spec"], "replica": 2}})
    assert status == 400
    assert "replica" in answer["message"]


async def test_helm_installs_it_and_its_notes_can_be_followed(cluster: Cluster) -> None:
    require_real("helm")
    flags = ("--namespace", NAMESPACE, "--kubeconfig", str(cluster.kubeconfig))
    shown = await asyncio.to_thread(helm, "install", "tiers", str(CHART), *flags)
    notes = shown.partition("NOTES:\n")[2]
    installed = await asyncio.to_thread(helm, "get", "manifest", "tiers", *flags)
    deployments = {one["metadata"]["name"] for one in yaml.safe_load_all(installed) if one["kind"] == "Deployment"}
    assert set(re.findall(r"port-forward deployment/(\S+)", notes)) == deployments
    (policy,) = re.findall(r"<<POLICY\n(.*?)^\s*POLICY$", notes, flags=re.MULTILINE | re.DOTALL)
    status, answer = await cluster.create(yaml.safe_load(policy))
    assert status == 201, answer
    commands = re.findall(r"^\s*(couchestor .*)$", notes, flags=re.MULTILINE)
    assert commands
    for command in commands:
        parser().parse_args(shlex.split(command)[1:])


def a_policy(spec: Any) -> Object:
    """A StoragePolicy."""
    policy = {
        "apiVersion": "storage.billyronks.io/v1",
        "kind": "StoragePolicy",
        "metadata": {"name": "database-tiering"},
    }
    return policy if spec is None else policy | {"spec": spec}


SPECIFIED = {"highWatermarkIOPS": 5000, "lowWatermarkIOPS": 500, "storageClassName": "mayastor", "samplingWindow": "1h"}
TIER = {"matchLabels": {"tier": "hot"}}
GOOD: dict[str, Any] = {
    "the specification's four fields": SPECIFIED,
    "nothing": {},
    "no spec at all": None,
    "fractions": {"highWatermarkIOPS": 0.5, "lowWatermarkIOPS": 0.25},
    "a warm watermark between": {"warmWatermarkIOPS": 2000},
    "days": {"cooldownPeriod": "7d", "samplingWindow": "1h30m", "migrationTimeout": "0.5h"},
    "the other names of the selectors": {
        "nvmePoolSelector": TIER,
        "sataPoolSelector": {"matchLabels": {"tier": "cold"}},
    },
    "expressions": {
        "volumeSelector": {
            "matchExpressions": [
                {"key": "team", "operator": "In", "values": ["a", "b"]},
                {"key": "keep", "operator": "DoesNotExist"},
            ]
        }
    },
}
BAD: dict[str, tuple[Any, str]] = {
    "low above high": ({"lowWatermarkIOPS": 6000}, "lowWatermarkIOPS must be below highWatermarkIOPS"),
    "low equal to high": ({"lowWatermarkIOPS": 5000}, "lowWatermarkIOPS must be below highWatermarkIOPS"),
    "high below the default low": ({"highWatermarkIOPS": 400}, "lowWatermarkIOPS must be below highWatermarkIOPS"),
    "warm below low": ({"warmWatermarkIOPS": 100}, "warmWatermarkIOPS must be 0, or between"),
    "warm above high": ({"warmWatermarkIOPS": 9000}, "warmWatermarkIOPS must be 0, or between"),
    "a negative watermark": ({"lowWatermarkIOPS": -1}, "spec.lowWatermarkIOPS"),
    "words for a number": ({"highWatermarkIOPS": "5000"}, "spec.highWatermarkIOPS"),
    "a window in words": ({"samplingWindow": "one hour"}, "spec.samplingWindow"),
    "a negative window": ({"samplingWindow": "-1h"}, "spec.samplingWindow"),
    "no unit": ({"cooldownPeriod": "24"}, "spec.cooldownPeriod"),
    "no migrations": ({"maxConcurrentMigrations": 0}, "spec.maxConcurrentMigrations"),
    "an empty class": ({"storageClassName": ""}, "spec.storageClassName"),
    "an unknown noData": ({"noData": "Warm"}, "spec.noData"),
    "an unknown field": ({"highWatermark": 5000}, "highWatermark"),
    "In without values": (
        {"volumeSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}},
        "In and NotIn need at least one",
    ),
    "Exists with values": (
        {"hotPoolSelector": {"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]}},
        "Exists and DoesNotExist take none",
    ),
    "an unknown operator": (
        {"hotPoolSelector": {"matchExpressions": [{"key": "a", "operator": "Gt", "values": ["1"]}]}},
        "operator",
    ),
    "two names of one selector": (
        {"coldPoolSelector": TIER, "sataPoolSelector": {"matchLabels": {"tier": "cold"}}},
        "another name of coldPoolSelector",
    ),
}


@pytest.mark.parametrize("name", GOOD)
async def test_a_policy_that_makes_sense_is_taken_and_shown_with_its_defaults(cluster: Cluster, name: str) -> None:
    status, answer = await cluster.create(a_policy(GOOD[name]))
    assert status == 201, answer
    stored = msgspec.convert(answer, StoragePolicy, strict=False)
    assert stored.spec == msgspec.convert(GOOD[name] or {}, PolicySpec, strict=False)
    missing = {"samplingWindow", "cooldownPeriod", "noData", "enabled", "dryRun"} - set(answer["spec"])
    assert not missing


@pytest.mark.parametrize("name", BAD)
async def test_a_policy_that_does_not_is_refused_with_the_field(cluster: Cluster, name: str) -> None:
    spec, words = BAD[name]
    status, answer = await cluster.create(a_policy(spec))
    assert status in {400, 422}, answer
    assert words in answer["message"]


async def test_what_the_door_lets_in_for_later_the_planner_refuses(cluster: Cluster) -> None:
    status, answer = await cluster.create(a_policy({"warmWatermarkIOPS": 2000}))
    assert status == 201
    with pytest.raises(ValueError, match="three tiers are not supported"):
        policy_from(msgspec.convert(answer, StoragePolicy, strict=False))
