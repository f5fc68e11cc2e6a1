"""
Settings: flags, their twins in the environment, and one line about what is wrong.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from enum import StrEnum

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from common.config import Addr, CommonSettings, LogLevel, parse_addr, parse_settings, parse_target, setting

NO_NAMESPACE = (
    "is not the name of a namespace: it has at most 63 small letters, digits and dashes, and begins and ends with a "
    "letter or a digit"
)


class Backend(StrEnum):
    AUTO = "auto"
    CRD = "crd"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settings(CommonSettings):
    """The migrator's own settings."""

    grpc_addr: str = setting(":50053", "where gRPC is served")
    scorer_addr: str = setting("localhost:50051", "where the scorer is")
    home_namespace: str = setting("", "where the Lease is")
    poll_seconds: float = setting(10.0, "seconds between polls")
    max_moves: int = setting(2, "moves at a time; 0 pauses")
    dry_run: bool = setting(False, "write nothing")
    backend: Backend = setting(Backend.AUTO, "how Mayastor is spoken to")
    rest_url: str | None = setting(None, "URL of Mayastor's REST API", env="MAYASTOR_REST_URL")
    offset: float = setting(0.0, "may be negative", minimum=None)
    headroom_percent: float = setting(5.0, "of each pool, 100% being all", minimum=1)

    def __post_init__(self) -> None:
        if self.backend is Backend.CRD and self.rest_url:
            raise ValueError("--rest-url is of no use with --backend crd: leave one out")


def settings(*argv: str, environ: Mapping[str, str] | None = None) -> Settings:
    return parse_settings(Settings, argv, environ or {}, prog="couchestor-migrator", description="Moves replicas.")


def refusal(capsys: pytest.CaptureFixture[str], *argv: str, environ: Mapping[str, str] | None = None) -> str:
    with pytest.raises(SystemExit) as end:
        settings(*argv, environ=environ)
    assert end.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.endswith("\n")
    assert said.err.count("\n") == 1
    return said.err.strip()


def test_without_anything_the_defaults_hold() -> None:
    given = settings()
    assert given == Settings()
    assert (given.metrics_addr, given.health_addr, given.log_level, given.log_json) == (":8080", ":8081", "INFO", True)


def test_a_flag_wins_over_its_twin_in_the_environment_and_the_twin_over_the_default() -> None:
    environ = {"POLL_SECONDS": "0.5", "MAX_MOVES": "7", "GRPC_ADDR": "127.0.0.1:1"}
    given = settings("--poll-seconds", "0.25", environ=environ)
    assert (given.poll_seconds, given.max_moves, given.grpc_addr) == (0.25, 7, "127.0.0.1:1")


def test_a_twin_can_have_a_name_of_its_own() -> None:
    assert settings(environ={"MAYASTOR_REST_URL": "http://a", "REST_URL": "http://b"}).rest_url == "http://a"


def test_an_empty_variable_counts_as_not_set() -> None:
    assert settings(environ={"POLL_SECONDS": "", "GRPC_ADDR": ""}) == Settings()


@pytest.mark.parametrize(
    ("argv", "value"),
    [
        (("--dry-run",), True),
        (("--dry-run=true",), True),
        (("--dry-run", "no"), False),
        (("--dry-run=0",), False),
        (("--dry-run", "--max-moves", "1"), True),
        ((), False),
    ],
)
def test_a_yes_or_no_can_be_said_in_each_usual_way(argv: tuple[str, ...], value: bool) -> None:
    assert settings(*argv).dry_run is value


@pytest.mark.parametrize("word", ["true", "TRUE", "1", "yes", "On"])
def test_a_yes_from_the_environment(word: str) -> None:
    assert settings(environ={"DRY_RUN": word}).dry_run is True


def test_a_default_of_true_can_be_turned_off() -> None:
    assert settings("--log-json=false").log_json is False
    assert settings(environ={"LOG_JSON": "off"}).log_json is False


def test_words_of_a_closed_set_are_read_in_any_case() -> None:
    given = settings("--log-level", "debug", "--backend", "CRD")
    assert given.log_level is LogLevel.DEBUG
    assert given.backend is Backend.CRD


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--poll-seconds", "soon"), "--poll-seconds: 'soon' is not a number"),
        (("--poll-seconds", "nan"), "--poll-seconds: 'nan' is not a number"),
        (("--poll-seconds", "inf"), "--poll-seconds: 'inf' is not a number"),
        (("--poll-seconds", "-1"), "--poll-seconds: -1 is less than 0"),
        (("--headroom-percent", "0.5"), "--headroom-percent: 0.5 is less than 1"),
        (("--poll-seconds", "1.1e9"), "--poll-seconds: 1.1e9 is beyond 1e+09"),
        (("--offset=-1e30",), "--offset: -1e30 is beyond 1e+09"),
        (("--max-moves", "1.5"), "--max-moves: '1.5' is not a whole number"),
        (("--dry-run", "perhaps"), "--dry-run: 'perhaps' is neither true nor false"),
        (("--backend", "nfs"), "--backend: 'nfs' is not one of auto, crd"),
        (("--grpc-addr", "50053"), "--grpc-addr: '50053' is not an address: write it like :8080 or 127.0.0.1:8080"),
        (
            ("--scorer-addr", "scorer"),
            "--scorer-addr: 'scorer' is not the address of a service: write it like localhost:50051 or [::1]:50051",
        ),
        (
            ("--home-namespace", "Home"),
            f"--home-namespace: 'Home' {NO_NAMESPACE}",
        ),
        (("--backend", "crd", "--rest-url", "x"), "--rest-url is of no use with --backend crd: leave one out"),
        (("--nonsense",), "unrecognized arguments: --nonsense; see couchestor-migrator --help"),
        (("--poll", "3"), "unrecognized arguments: --poll 3; see couchestor-migrator --help"),
        (("stray",), "unrecognized arguments: stray; see couchestor-migrator --help"),
        (("--max-moves",), "argument --max-moves: expected one argument; see couchestor-migrator --help"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_and_ends_with_2(
    capsys: pytest.CaptureFixture[str], argv: tuple[str, ...], message: str
) -> None:
    assert refusal(capsys, *argv) == f"couchestor-migrator: {message}"


def test_a_wrong_variable_is_named_as_a_variable(capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal(capsys, environ={"POLL_SECONDS": "a\nb"})
    assert said == "couchestor-migrator: POLL_SECONDS: 'a\\nb' is not a number"


def test_a_wrong_variable_does_no_harm_where_the_flag_is_given() -> None:
    assert settings("--poll-seconds", "3", environ={"POLL_SECONDS": "soon"}).poll_seconds == 3


def test_a_number_that_may_be_negative_can_be() -> None:
    assert settings("--offset", "-2.5").offset == -2.5


def test_the_help_names_each_flag_its_twin_and_its_default_under_its_own_heading(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as end:
        settings("--help")
    assert end.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    own, common = text.index("The migrator's own settings:"), text.index("Settings of every service:")
    assert own < text.index("--poll-seconds N seconds between polls [POLL_SECONDS] (default: 10)") < common
    assert "how Mayastor is spoken to; one of auto, crd [BACKEND] (default: auto)" in text
    assert "URL of Mayastor's REST API [MAYASTOR_REST_URL] (default: none)" in text
    assert "of each pool, 100% being all" in text
    assert common < text.index("[LOG_JSON] (default: true)")


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        settings("--version")
    assert capsys.readouterr().out.startswith("couchestor-migrator 0.")


@pytest.mark.parametrize(
    ("text", "addr"),
    [
        (":8080", Addr("", 8080)),
        ("127.0.0.1:0", Addr("127.0.0.1", 0)),
        ("[::1]:50051", Addr("::1", 50051)),
        ("localhost:1", Addr("localhost", 1)),
    ],
)
def test_an_address_is_read_and_written_back(text: str, addr: Addr) -> None:
    assert parse_addr(text) == addr
    assert str(addr) == text


@pytest.mark.parametrize(
    "text", ["", "8080", "host", "host:", "host:http", "host:65536", "::1:80", "host:-1", "host:٣"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not an address"):
        parse_addr(text)


@pytest.mark.parametrize(
    "text",
    ["localhost:1", "10.0.0.1:65535", "[::1]:50051", "scorer.ns.svc:50051", "dns:///scorer:50051", "unix:/run/s"],
)
def test_where_a_service_may_be_called(text: str) -> None:
    assert settings("--scorer-addr", text).scorer_addr == text


@pytest.mark.parametrize("text", ["", "a", "a:", ":1", "a:0", "a:65536", "a:b", "::1:2", "a b:1", "http://a:1", "[]:1"])
def test_where_no_service_can_be_called(text: str) -> None:
    with pytest.raises(ValueError, match="is not the address of a service"):
        parse_target(text)


@pytest.mark.parametrize("text", ["a", "default", "kube-system", "0", "a" * 63])
def test_the_name_of_a_namespace(text: str) -> None:
    assert settings(environ={"HOME_NAMESPACE": text}).home_namespace == text


@given(st.integers(min_value=0, max_value=10**9))
@hypothesis_settings(max_examples=25)
def test_every_whole_number_comes_through_flag_and_environment_alike(number: int) -> None:
    assert settings("--max-moves", str(number)) == settings(environ={"MAX_MOVES": str(number)})
    assert settings("--max-moves", str(number)).max_moves == number
