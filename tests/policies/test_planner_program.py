"""The planner as a program: what it says of its settings, and how it ends when it cannot begin."""

from __future__ import annotations

import dataclasses
import random
import socket
from pathlib import Path
from typing import Any

import pytest

from common.config import SettingError, parse_settings
from migrator.__main__ import Settings as MigratorSettings
from planner.__main__ import Pod, Settings
from planner.reconciler import Timing
from tests.policies.cluster import a_stage, running


def settings(*argv: str, **environ: str) -> Settings:
    return parse_settings(Settings, argv, environ, prog="couchestor-planner", description="")


def test_times_are_those_of_the_design_unless_told_otherwise() -> None:
    assert settings().timing == Timing(interval=300, after_move=2, after_error=60, not_after=600)


def test_a_demo_shrinks_every_time_by_flags_alone() -> None:
    told = settings(
        "--reconcile-interval-seconds=0.5",
        "--error-requeue-seconds=0.25",
        "--reconcile-after-move-seconds=0.1",
        "--back-off-seconds=0.5",
        RECONCILE_INTERVAL_SECONDS="7",
    )
    assert told.timing == Timing(interval=0.5, after_move=0.1, after_error=0.25, not_after=1.0)
    assert told.limits.back_off_base.total_seconds() == 0.5
    assert settings("--plan-not-after-seconds=9").timing.not_after == 9


@pytest.mark.parametrize(
    ("flag", "complaint"),
    [
        ("--lease-renew-seconds=20", "must each be longer than the next"),
        ("--pool-headroom-percent=100", "must be below 100"),
        ("--reconcile-interval-seconds=0", "is less than"),
        ("--grpc-addr=here", "is not an address"),
    ],
)
def test_a_setting_that_makes_no_sense_ends_it_with_one_line(
    flag: str, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        settings(flag)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert complaint in line


def test_a_pod_knows_its_name_and_namespace() -> None:
    told = settings(POD_NAME="planner-abc", POD_NAMESPACE="storage")
    assert Pod.of(told, random.Random(1)) == Pod("planner-abc", "storage")
    flags = settings("--lease-namespace=other", "--identity=me", POD_NAME="planner-abc", POD_NAMESPACE="storage")
    assert Pod.of(flags, random.Random(1)) == Pod("me", "other")
    alone, other = (Pod.of(settings(), random.Random(seed)) for seed in (1, 2))
    assert alone.name != other.name
    assert alone.namespace == "default"


def test_what_both_leaders_are_told_of_their_lease_has_the_same_names() -> None:
    def names(kind: type[Any]) -> dict[str, str | None]:
        fields = dataclasses.fields(kind)
        return {f.name: f.metadata["env"] for f in fields if f.name.startswith("lease_") or f.name == "identity"}

    assert names(Settings) == names(MigratorSettings)


async def test_an_address_that_is_taken_is_told_in_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SettingError, match="choose another address"):
            async with running(a_stage(), tmp_path, grpc_addr=f"127.0.0.1:{port}"):
                pass
        with pytest.raises(SettingError, match="choose another address"):
            async with running(a_stage(), tmp_path, metrics_addr=f"127.0.0.1:{port}"):
                pass
