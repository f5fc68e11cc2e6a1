"""The demo as a user runs it, on a cluster in a box and on real components."""

import os
import re
import shutil
import signal
from pathlib import Path

import pytest

from tests.demo.running import (
    HOSTILE,
    LAST,
    REAL,
    a_demo,
    alive,
    answer_to,
    children_of,
    command_of,
    lines_until,
    output_of,
)
from tests.real import require_real


@pytest.mark.parametrize("cluster", ["box", "real"])
@pytest.mark.timeout(300)
async def test_the_demo_makes_exactly_the_expected_moves_and_nothing_is_unsafe(cluster: str) -> None:
    if cluster == "real":
        require_real(*REAL)
    async with a_demo("--cluster", cluster, environment=HOSTILE) as process:
        out = await output_of(process)
    last = LAST.fullmatch(out.rstrip().splitlines()[-1])
    assert last is not None, out
    expected, completed, unsafe, _ = last.groups()
    assert (completed, unsafe, process.returncode) == (expected, "0", 0), out
    assert int(expected) >= 6
    for text in ("GetHeatScore", "PreviewPlan", "StartMigration", "WatchMigrations", "top", "explain"):
        assert text in out
    assert "\x1b[" not in out, "a pipe gets plain text"


async def test_every_command_that_the_kept_demo_prints_works_as_printed() -> None:
    require_real("grpcurl")
    async with a_demo("--keep") as process:
        lines = await lines_until(process, "demo: expected=")
        first = lines.index("to try\n") + 1
        commands = [line.strip() for line in lines[first : lines.index("\n", first)]]
        answers = {command: await answer_to(command) for command in commands}
        assert {command: answer for command, answer in answers.items() if answer[0] != 0} == {}
        process.send_signal(signal.SIGTERM)
        await output_of(process)
        assert process.returncode == 0

    def said(text: str) -> str:
        return next(answer for command, (_, answer) in answers.items() if text in command)

    assert len([command for command in commands if command.endswith(" list")]) == 3
    assert '"quality": "HEAT_QUALITY_OK"' in said("GetHeatScore")
    assert '"volume": "pvc-datalake"' in said("PreviewPlan")
    assert '"volume": "pvc-mail"' in said("StartMigration")
    assert '"MIGRATION_STATE_COMPLETED"' in said("WatchMigrations")
    assert "pvc-datalake" in said("couchestor top")
    assert "NoPoolWithSpace" in said("couchestor explain")
    assert "pvc-orders" in said("couchestor migrations")


async def test_a_service_that_dies_ends_the_demo_with_the_end_of_its_log() -> None:
    async with a_demo() as process:
        before = await lines_until(process, "ScalingUp")
        (scorer,) = [pid for pid in children_of(process.pid) if "scorer" in command_of(pid)]
        os.kill(scorer, signal.SIGKILL)
        out = "".join(before) + await output_of(process)
    assert process.returncode == 1
    log = re.search(r"demo: scorer ended by itself; its log (\S+) ends", out)
    assert log is not None, out
    shutil.rmtree(Path(log[1]).parent)
    assert '"service":"scorer"' in out


@pytest.mark.parametrize(
    ("number", "told"),
    [(signal.SIGKILL, "was killed (signal 9)"), (signal.SIGTERM, "was stopped")],
    ids=["KILL", "TERM"],
)
async def test_a_migrator_ended_in_the_middle_of_moves_is_started_again_and_finishes_them(
    number: signal.Signals, told: str
) -> None:
    async with a_demo("--keep") as process:
        before = await lines_until(process, "WaitingSync")
        (migrator,) = [pid for pid in children_of(process.pid) if "migrator" in command_of(pid)]
        os.kill(migrator, number)
        out = "".join(before + await lines_until(process, "demo: expected="))
        process.send_signal(signal.SIGTERM)
        await output_of(process)
    assert f"migrator {told}; starting it again" in out
    assert "completed=8 unsafe=0" in out, out
    assert process.returncode == 0


async def test_without_the_real_components_it_says_what_to_do(tmp_path: Path) -> None:
    bare = {"XDG_CACHE_HOME": str(tmp_path), "KUBEBUILDER_ASSETS": "", "PATH": "/nowhere"}
    async with a_demo("--cluster", "real", environment=bare) as process:
        out = await output_of(process)
    assert process.returncode == 1
    assert "make tools" in out
    assert "Traceback" not in out


async def test_an_interrupted_demo_stops_everything_that_it_started() -> None:
    async with a_demo("--keep") as process:
        await lines_until(process, "everything is up")
        children = children_of(process.pid)
        assert len(children) >= 3
        process.send_signal(signal.SIGINT)
        out = await output_of(process)
    assert process.returncode == 128 + signal.SIGINT, out
    assert "interrupted by SIGINT" in out
    assert not alive(children)
