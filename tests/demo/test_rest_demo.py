"""The demo on Mayastor's REST API, on a cluster in a box and on real components; and that it can be found wanting."""

import asyncio
import os
import re
import shlex
import shutil
import signal
import sys
from pathlib import Path

import aiohttp
import pytest

from tests.demo.running import (
    HOSTILE,
    LAST,
    REAL,
    ROOT,
    a_demo,
    answer_to,
    children_of,
    command_of,
    lines_until,
    output_of,
)
from tests.real import require_real

URL = re.compile(r"Mayastor's REST API, simulated: (\S+)/v0")


def url_in(lines: list[str]) -> str:
    found = URL.search("".join(lines))
    assert found is not None, lines
    return found[1]


async def put(session: aiohttp.ClientSession, url: str) -> None:
    async with session.put(url) as answer:
        assert answer.status == 200, await answer.text()


@pytest.mark.parametrize("cluster", ["box", "real"])
@pytest.mark.timeout(300)
async def test_the_demo_on_the_rest_api_makes_exactly_the_expected_moves_and_nothing_is_unsafe(cluster: str) -> None:
    if cluster == "real":
        require_real(*REAL)
    async with a_demo("--backend", "rest", "--cluster", cluster, environment=HOSTILE) as process:
        out = await output_of(process)
    last = LAST.fullmatch(out.rstrip().splitlines()[-1])
    assert last is not None, out
    expected, completed, unsafe, _ = last.groups()
    assert (completed, unsafe, process.returncode) == (expected, "0", 0), out
    assert int(expected) >= 6
    for reason in ("RebuildFailed", "NotPublished", "HasSnapshots", "VolumeUnhealthy", "Moved"):
        assert reason in out
    assert re.search(r"pvc-queue .*, .* Completed", out), "a volume of two replicas moves whole"
    assert "/v0/volumes/" in out


def _at_hand(command: str) -> str:
    """A machine without curl has Python."""
    read = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1]).read().decode())"
    return command.replace("curl -s", shlex.join([sys.executable, "-c", read])) if not shutil.which("curl") else command


async def test_every_command_that_a_kept_demo_of_it_prints_works_as_printed() -> None:
    require_real("grpcurl")
    async with a_demo("--backend", "rest", "--keep") as process:
        lines = await lines_until(process, "demo: expected=")
        first = lines.index("to try\n") + 1
        commands = [line.strip() for line in lines[first : lines.index("\n", first)]]
        answers = {command: await answer_to(_at_hand(command)) for command in commands}
        assert {command: answer for command, answer in answers.items() if answer[0] != 0} == {}
        process.send_signal(signal.SIGTERM)
        await output_of(process)
        assert process.returncode == 0

    def said(text: str) -> str:
        return next(answer for command, (_, answer) in answers.items() if text in command)

    assert '"MIGRATION_STATE_COMPLETED"' in said("WatchMigrations")
    assert '"replica_topology"' in said("/v0/volumes/")
    assert '"node-1"' in said("/v0/nodes")
    assert '"tier":"hot"' in said("/v0/pools")


async def test_a_demo_in_which_somebody_is_careless_says_what_and_ends_with_1() -> None:
    async with a_demo("--backend", "rest") as process:
        before = await lines_until(process, "applying the policies")
        api = f"{url_in(before)}/v0"
        async with aiohttp.ClientSession() as session:
            async with session.get(f"{api}/volumes?max_entries=0") as answer:
                volumes = (await answer.json())["entries"]
            not_whole = next(v["spec"]["uuid"] for v in volumes if v["state"]["status"] == "Degraded")
            await put(session, f"{api}/volumes/{not_whole}/replica_count/1")
            # As if a lever of ours were never let go, on a pool that no move of the story concerns. (Node cordons that
            # bear our mark are cleared away by the migrator before long, whoever put them there.)
            await put(session, f"{api}/pools/pool-old-6/label/fleet=couchestor-forgotten?overwrite=true")
        out = "".join(before) + await output_of(process)
    assert process.returncode == 1, out
    last = LAST.fullmatch(out.rstrip().splitlines()[-1])
    assert last is not None, out
    assert int(last[3]) >= 5, out
    assert "UNSAFE pvc-inventory: the replica count is never written below the original" in out
    assert "UNSAFE couchestor-forgotten: a volume is written only by a migration that is on record" in out
    too_long = "what is set on nodes and pools to steer Mayastor is taken back within seconds"
    assert f"UNSAFE pool pool-old-6: {too_long}: label fleet=couchestor-forgotten is set since 10." in out
    left = "after its end a migration leaves all as it was, but for its replicas"
    assert f"UNSAFE pool pool-old-6: {left}: label fleet=couchestor-forgotten is left, and all is over" in out
    assert f"UNSAFE pool pool-old-6: {left}: label fleet=old is missing, and all is over" in out
    logs = re.search(r"logs\n\s+(\S+)", out)
    assert logs is not None
    shutil.rmtree(Path(logs[1]))


async def a_cordon_of_ours(api: str, *, seconds: float) -> str:
    """Ask, again and again, until a node is cordoned by the migrator."""
    async with asyncio.timeout(seconds), aiohttp.ClientSession() as session:
        while True:
            async with session.get(f"{api}/nodes") as answer:
                found = re.search(r"couchestor-[\w-]+", await answer.text())
            if found is not None:
                return found[0]


async def test_a_migrator_killed_while_nodes_are_cordoned_lets_go_when_it_is_back_and_finishes() -> None:
    async with a_demo("--backend", "rest", "--keep") as process:
        before = await lines_until(process, "applying the policies")
        api = f"{url_in(before)}/v0"
        mark = await a_cordon_of_ours(api, seconds=60.0)
        (migrator,) = [pid for pid in children_of(process.pid) if "migrator" in command_of(pid)]
        os.kill(migrator, signal.SIGKILL)
        async with aiohttp.ClientSession() as session, session.get(f"{api}/nodes") as answer:
            held = mark in await answer.text()
        out = "".join(before + await lines_until(process, "demo: expected="))
        async with aiohttp.ClientSession() as session, session.get(f"{api}/nodes") as answer:
            assert "couchestor" not in await answer.text()
        process.send_signal(signal.SIGTERM)
        await output_of(process)
    assert "migrator was killed (signal 9); starting it again" in out
    assert "completed=8 unsafe=0" in out, f"{'killed with a lever pulled' if held else ''}\n{out}"
    assert process.returncode == 0


async def test_make_passes_the_backend_and_the_cluster_on() -> None:
    process = await asyncio.create_subprocess_exec(
        "make", "-n", "-o", "setup", "demo", "BACKEND=rest", "CLUSTER=real", "KEEP=1",
        cwd=ROOT, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await process.communicate()
    assert b"-m sandbox.demo --backend rest --cluster real --keep" in out
