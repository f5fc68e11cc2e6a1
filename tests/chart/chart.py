"""
The chart as tests look at it: its files, and what helm renders from them.
"""

import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from sandbox.real.tools import tool

CHART = Path(__file__).parents[2] / "helm" / "couchestor"
CRDS = CHART / "crds"
KUBERNETES = "1.34.2"
"""The API server that the tests have; a helm that was not built for a release takes clusters to be very old."""
RELEASE, NAMESPACE = "couchestor", "storage"
SERVICES = ("scorer", "planner", "migrator")

Object = dict[str, Any]


def crd(plural: str) -> Object:
    """One of the chart's CustomResourceDefinitions."""
    definition: Object = yaml.safe_load((CRDS / f"{plural}.yaml").read_text())
    return definition


def values() -> Object:
    """values.yaml."""
    content: Object = yaml.safe_load((CHART / "values.yaml").read_text())
    return content


@cache
def helm(*arguments: str) -> str:
    """Run helm; its standard output. An error of helm's fails the test with helm's words."""
    ran = subprocess.run([tool("helm"), *arguments], capture_output=True, text=True, check=False, timeout=120)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def render(*settings: str, crds: bool = False) -> list[Object]:
    """Every object of the chart, with `--set` settings."""
    arguments = ["template", RELEASE, str(CHART), "--namespace", NAMESPACE, "--kube-version", KUBERNETES]
    for setting in settings:
        arguments += ["--set", setting]
    if crds:
        arguments.append("--include-crds")
    return [document for document in yaml.safe_load_all(helm(*arguments)) if document]


def of_kind(objects: list[Object], kind: str) -> dict[str, Object]:
    """Those of one kind, by the last word of their name."""
    return {item["metadata"]["name"].removeprefix(f"{RELEASE}-"): item for item in objects if item["kind"] == kind}


def container(deployment: Object) -> Object:
    """The only container of a Deployment."""
    (only,) = deployment["spec"]["template"]["spec"]["containers"]
    found: Object = only
    return found
