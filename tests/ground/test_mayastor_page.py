"""docs/mayastor.md says what the code does: abilities, refusals, calls, settings."""

import inspect
import re
from pathlib import Path

from common.reasons import Reason
from common.resources.meta import LEVERS_OFF
from migrator.__main__ import BackendChoice, Settings
from migrator.backends.rest.client import RestClient
from migrator.core.steering.abilities import Ability
from migrator.core.steering.cluster import MARK
from migrator.core.steering.levers import MAX_LEVERS
from tests.ground.test_documentation import code, rows, sections, written

PAGE = (Path(__file__).parents[2] / "docs" / "mayastor.md").read_text()
PARTS = sections(PAGE)


def test_every_ability_is_explained_under_its_name() -> None:
    told = {row[0] for row in rows(PARTS["Which versions can do what"]) if len(row) == 2}
    assert told == {ability.value for ability in Ability}


def test_the_refusals_are_reasons_and_none_of_the_levers_is_missing() -> None:
    told = {word for row in rows(PARTS["What is refused, and why"]) for word in row[0].split(", ")}
    assert told <= {reason.value for reason in Reason}
    assert told >= {
        Reason.REMOVAL_NOT_STEERABLE,
        Reason.PLACEMENT_NOT_STEERABLE,
        Reason.SAME_NODE,
        Reason.NOT_PUBLISHED,
        Reason.HAS_SNAPSHOTS,
        Reason.RESTORED_FROM_SNAPSHOT,
        Reason.ENCRYPTION_FORBIDS,
        Reason.AFFINITY_GROUP_MINIMUM,
        Reason.NO_FREE_NODE,
        Reason.OTHER_NEXUS_PRESENT,
        Reason.NO_POOL_WITH_SPACE,
        Reason.CORDONED_BY_OTHER,
        Reason.NEIGHBOUR_DEGRADED,
        Reason.TOO_MANY_LEVERS,
    }


def test_every_call_that_the_client_makes_is_named() -> None:
    """By method and the first words of its path, since a gateway may be set up by this table."""
    told = {
        (method, path.removeprefix("/v0/").partition("/")[0], path.rpartition("}/")[2].partition("/")[0])
        for row in rows(PARTS["Turn it on"])
        for method in ("GET", "PUT", "DELETE")
        if method in row[0]
        for path in code(row[0])
    }
    source = inspect.getsource(RestClient)
    made = {
        ("GET" if call == "_read" else method, path.partition("/")[0].partition("?")[0])
        for call, method, path in re.findall(r'self\.(_read|_write)\((?:"(PUT|DELETE)", )?f?"([^"]+)"', source)
    }
    assert len(made) >= 8
    assert made == {(method, first) for method, first, _ in told}


def test_settings_and_their_defaults_are_those_of_the_migrator() -> None:
    fields = {name: field.default for name, field in Settings.__dataclass_fields__.items()}
    for row in rows(PARTS["Turn it on"]):
        if len(row) == 3:
            (flag,) = code(row[0])
            assert row[1] == written(fields[flag.removeprefix("--").replace("-", "_")])
    choices = {code(row[0])[0] for row in rows(PARTS["Turn it on"]) if row[0].startswith("`") and len(row) == 2}
    assert choices == {choice.value for choice in BackendChoice}


def test_the_annotation_the_label_and_the_bound_are_the_codes() -> None:
    assert f"{LEVERS_OFF}: {Ability.GO_NODE_CORDON}" in PAGE
    assert f"annotate lease {Settings.__dataclass_fields__['lease_name'].default} {LEVERS_OFF}-" in PAGE
    assert f"`{MARK}-`" in PAGE
    assert f"more than {MAX_LEVERS} nodes and pools" in PAGE
