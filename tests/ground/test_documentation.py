"""The documentation says what the code says: reasons, checks, settings, commands, links."""

import dataclasses
import importlib
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from couchestor.migrator.v1 import migrator_pb2
from couchestor.planner.v1 import planner_pb2
from couchestor.scorer.v1 import scorer_pb2

from cli.__main__ import parser
from common.config import CommonSettings
from common.reasons import Reason
from common.resources.migration import MigrationState
from common.resources.policy import PolicySpec
from migrator.core.model import END_STATES
from planner.core.checks import CHECKS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "tools" / "README.md", *DOCS.rglob("*.md")])
SERVICES = ("scorer", "planner", "migrator")


def rows(text: str) -> Iterator[list[str]]:
    """The cells of every row of every table, titles and rules left out."""
    lines = text.splitlines()
    for index, line in enumerate(lines):
        following = lines[index + 1] if index + 1 < len(lines) else ""
        if line.startswith("|") and not re.fullmatch(r"[|\s:-]+", line) and not re.fullmatch(r"\|[|\s:-]+", following):
            yield [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]


def sections(text: str, mark: str = "## ") -> dict[str, str]:
    """What stands under each heading."""
    parts = re.split(rf"^{mark}(.+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_every_reason_is_explained_once() -> None:
    told = [row[0] for row in rows((DOCS / "reasons.md").read_text())]
    assert sorted(told) == sorted(told_once := {reason.value for reason in Reason})
    assert len(told) == len(told_once)


def test_the_ends_stand_under_the_state_they_have() -> None:
    text = sections((DOCS / "reasons.md").read_text())["How a migration ended"]
    told = {
        (state, row[0])
        for state, part in zip(*[iter(re.split(r"^\*\*(\w+)\*\*", text, flags=re.MULTILINE)[1:])] * 2, strict=True)
        for row in rows(part)
    }
    elsewhere = {Reason.ALREADY_MIGRATING}  # it holds a volume as well, and is explained there
    ends = {(MigrationState(state).value, r.value) for r, state in END_STATES.items() if r not in elsewhere}
    assert told == ends


def test_the_checks_are_listed_in_the_order_they_run() -> None:
    text = sections((DOCS / "policies.md").read_text())["How a volume is decided about"]
    told = [row[0] for row in rows(text)]
    assert told == [check.name for check in CHECKS]


def test_the_reasons_of_the_checks_exist() -> None:
    text = sections((DOCS / "policies.md").read_text())["How a volume is decided about"]
    words = {word for row in rows(text) for word in row[2].split(", ") if " " not in word}
    assert words <= {reason.value for reason in Reason}


def test_every_field_of_a_policy_is_described() -> None:
    told = {name for row in rows(sections((DOCS / "policies.md").read_text())["Fields"]) for name in code(row[0])}
    assert told == {field.encode_name for field in msgspec.structs.fields(PolicySpec)}


def code(text: str) -> list[str]:
    """What is written as code."""
    return re.findall(r"`([^`]+)`", text)


def settings_of(name: str) -> tuple[type[Any], set[str]]:
    """A service's settings, and the names that all services share."""
    shared = {field.name for field in dataclasses.fields(CommonSettings)}
    if name == "common":
        return CommonSettings, set()
    settings: type[Any] = importlib.import_module(f"{name}.__main__").Settings
    return settings, shared


def table_of(name: str) -> str:
    """The table of one service's own settings."""
    settings, shared = settings_of(name)
    lines = ["| flag | variable | default | what it says |", "|---|---|---|---|"]
    for field in dataclasses.fields(settings):
        if field.name in shared:
            continue
        flag, variable = field.name.replace("_", "-"), field.metadata["env"] or field.name.upper()
        lines.append(f"| `--{flag}` | {variable} | {written(field.default)} | {field.metadata['help']} |")
    return "\n".join(lines)


def written(default: Any) -> str:
    """A default as one writes it on the command line."""
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, float):
        return f"{default:g}"
    return "" if default is None else str(default)


@pytest.mark.parametrize("name", [*SERVICES, "common"])
def test_every_setting_is_in_the_table(name: str) -> None:
    path = DOCS / "configuration.md"
    begin, end = f"<!-- settings: {name} -->\n", "<!-- end -->"
    before, _, rest = path.read_text().partition(begin)
    told, _, after = rest.partition(end)
    if os.environ.get("UPDATE_DOCS"):
        path.write_text(f"{before}{begin}{table_of(name)}\n{end}{after}")
        return
    assert told.strip() == table_of(name), "UPDATE_DOCS=1 writes it anew"


def test_the_flags_that_the_readme_picks_exist_and_have_these_defaults() -> None:
    for service, flags, default, _ in rows(sections((ROOT / "README.md").read_text())["Configuration"]):
        known = [settings_of(name)[0] for name in (SERVICES if service == "all" else (service,))]
        names = [flag.removeprefix("--").replace("-", "_") for flag in code(flags)]
        fields = [{field.name: field for field in dataclasses.fields(one)} for one in known]
        defaults = [written(one[name].default) for name in names for one in fields]
        shown = default.split(", ")
        assert set(defaults) == set(shown), flags


def blocks(page: Path) -> list[str]:
    """The commands of a page's shell blocks, continued lines joined, comments gone."""
    found = re.findall(r"^```sh\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    lines = "\n".join(found).replace("\\\n", " ").splitlines()
    return [line.partition(" #")[0].strip() for line in lines if line.strip() and not line.startswith("#")]


COMMANDS = [(page, command) for page in PAGES for command in blocks(page)]


def test_the_commands_of_the_command_line_client_parse() -> None:
    typed = [command for _, command in COMMANDS if command.startswith("couchestor ")]
    assert len(typed) >= 5
    for command in typed:
        parser().parse_args(shlex.split(command)[1:])


def test_the_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    used = {shlex.split(command)[1] for _, command in COMMANDS if command.startswith("make ")}
    used |= {word for page in PAGES for word in re.findall(r"`make ([a-z-]+)", page.read_text())}
    assert {"demo", "test"} <= used <= targets


def test_the_calls_of_grpcurl_exist_and_their_bodies_fit() -> None:
    from google.protobuf import json_format

    known = {
        service.full_name: service
        for module in (scorer_pb2, planner_pb2, migrator_pb2)
        for service in module.DESCRIPTOR.services_by_name.values()
    }
    pages = "\n".join(command for _, command in COMMANDS if command.startswith("grpcurl "))
    calls = re.findall(r"grpcurl -plaintext(?: -d '([^']*)')?\s+localhost:\d+ (\S+)/(\S+)", pages)
    assert len(calls) >= 3
    for body, service, method in calls:
        request = known[service].methods_by_name[method].input_type
        message = importlib.import_module(request.file.name.removesuffix(".proto").replace("/", ".") + "_pb2")
        json_format.Parse(body or "{}", getattr(message, request.name)())


def test_the_metrics_that_the_readme_names_exist() -> None:
    source = "\n".join(path.read_text() for package in ("common", *SERVICES) for path in (ROOT / package).rglob("*.py"))
    names = re.findall(r"`((?:couchestor|storage_operator)_[a-z_]+)", (ROOT / "README.md").read_text())
    assert len(names) >= 6
    for name in names:
        assert f'"{name}"' in source or f'"{name.removesuffix("_total")}"' in source, name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith("https://"):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_decisions_are_numbered_without_a_gap() -> None:
    numbers = [int(page.name[:4]) for page in sorted((DOCS / "decisions").glob("*.md"))]
    assert numbers == list(range(1, len(numbers) + 1))
    assert numbers


def test_every_statement_of_the_specification_has_what_we_do_and_a_verdict() -> None:
    told = list(rows((DOCS / "specification.md").read_text()))
    assert len(told) > 40
    for row in told:
        assert len(row) == 5, row
        _, statement, ours, verdict, why = row
        assert statement, row
        assert ours, row
        assert verdict in {"same", "departed"}, row
        assert why or verdict == "same", row


def test_every_test_that_the_safety_page_names_is_there() -> None:
    named = set(re.findall(r"`(test_[a-z_]+)`", (ROOT / "docs/safety.md").read_text()))
    sources = [path.read_text() for path in (ROOT / "tests").rglob("test_*.py")]
    assert named, "the page names no test"
    assert [name for name in sorted(named) if not any(f"def {name}(" in source for source in sources)] == []
