"""The command line itself: help, usage, addresses, exit codes, pipes; as a process where only a process shows it."""

import re
import subprocess
import sys
from datetime import timedelta
from typing import NoReturn

import pytest

from cli.__main__ import address_of, main
from cli.render import ASCII, UNICODE, bar, number
from cli.services import MIGRATOR, PLANNER, SCORER
from common.durations import format_span

NOBODY = "127.0.0.1:1"


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["dance"],
        ["top", "--limit", "0"],
        ["top", "--limit", "1001"],
        ["top", "--window", "0"],
        ["top", "--window", "an hour"],
        ["top", "--deadline", "-1"],
        ["top", "--deadline", "nan"],
        ["explain"],
        ["migrate", "pvc-a"],
        ["migrate", "pvc-a", "--to", "hot", "--priority", "1001"],
        ["migrations", "--state", "Sleeping"],
        ["explain", ""],
        ["preview", "a policy"],
        ["cancel", ""],
        ["cancel", "a" * 254],
        ["migrate", "", "--to", "hot"],
        *(["migrate", "pvc-a", "--to", to] for to in ("", "tier:", "pool:", ":x", "tier:fast", "foo:bar", "pool:a:b")),
        ["migrate", "pvc-a", "--to", "pool:a b"],
        ["migrate", "pvc-a", "--to", "hot", "--request-id", ""],
        ["migrate", "pvc-a", "--to", "hot", "--request-id", "a" * 254],
        ["migrate", "pvc-a", "--to", "hot", "--timeout", "9999999d"],
        ["migrations", "--volume", ""],
        ["migrations", "--policy", ""],
        ["top", "--scorer", ""],
        ["top", "--scorer", "localhost"],
        ["top", "--scorer", "localhost:65536"],
        ["preview", "p", "--planner", "localhost:0"],
        ["migrations", "--migrator", ":50053"],
    ],
    ids=lambda argv: " ".join(argv)[:60],
)
def test_nonsense_is_one_line_and_exit_code_2(
    argv: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cli.__main__.open_sync_channel", _nobody_is_called)
    with pytest.raises(SystemExit) as stopped:
        main(argv)
    assert stopped.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.splitlines()
    assert re.match(r"couchestor( [a-z]+)?: .*; see couchestor( [a-z]+)? --help$", line)


def _nobody_is_called(*_: object, **__: object) -> NoReturn:
    raise AssertionError("a service is called")


def test_a_variable_that_holds_no_address_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCORER_ADDR", "scorer:99999")
    with pytest.raises(SystemExit) as stopped:
        main(["top"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err == (
        "couchestor: SCORER_ADDR: 'scorer:99999' is not the address of a service: write it like localhost:50051 or "
        "[::1]:50051; see couchestor --help\n"
    )


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    for command in ("top", "explain", "preview", "migrations", "migrate", "cancel"):
        assert re.search(rf"^ +{command}\s+[a-z]", shown, re.MULTILINE)


@pytest.mark.parametrize("service", [SCORER, PLANNER, MIGRATOR], ids=lambda service: service.name)
def test_a_flag_wins_over_the_environment_and_that_over_the_default(service: object) -> None:
    assert isinstance(service, type(SCORER))
    variable = f"{service.name.upper()}_ADDR"
    assert address_of(service, "a:1", {variable: "b:2"}) == "a:1"
    assert address_of(service, None, {variable: "b:2"}) == "b:2"
    assert address_of(service, None, {variable: ""}) == service.default_address
    assert address_of(service, None, {}) == service.default_address


def test_the_ports_are_those_that_the_services_have_by_default() -> None:
    assert [s.default_address for s in (SCORER, PLANNER, MIGRATOR)] == [f"localhost:5005{n}" for n in (1, 2, 3)]


def test_what_is_called_idempotent_exists() -> None:
    from tests.cli.desk import SERVICES

    for service in (SCORER, PLANNER, MIGRATOR):
        descriptor = SERVICES[service.name]
        assert descriptor.full_name == service.full_name
        assert set(service.idempotent) <= set(descriptor.methods_by_name)


def test_a_service_that_is_not_there_is_one_line_and_exit_code_1() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "cli", "top", "--scorer", NOBODY, "--deadline", "5"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ran.returncode == 1
    assert ran.stdout == ""
    assert ran.stderr.startswith(f"couchestor: scorer at {NOBODY}: UNAVAILABLE: ")
    assert ran.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.4, "0s"),
        (59.6, "1m"),
        (90, "1m30s"),
        (3600, "1h"),
        (3601, "1h"),
        (47_520, "13h12m"),
        (90_000, "1d1h"),
        (-90, "-1m30s"),
    ],
)
def test_durations_are_told_in_their_two_largest_units(seconds: float, text: str) -> None:
    assert format_span(timedelta(seconds=seconds)) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (6500, "6,500"), (5234.56, "5,235"), (42.5, "42.5"), (0.25, "0.25")]
)
def test_rates_keep_the_digits_that_matter(value: float, text: str) -> None:
    assert number(value) == text


def test_a_bar_is_empty_only_at_zero_and_full_only_at_one() -> None:
    assert bar(0, 10, UNICODE) == ""
    assert bar(0.0001, 10, UNICODE) == "▏"
    assert bar(1, 10, UNICODE) == "█" * 10
    assert bar(7, 10, UNICODE) == "█" * 10
    assert bar(0.5, 10, ASCII) == "#" * 5
    assert len(bar(0.99, 10, ASCII)) <= 10
