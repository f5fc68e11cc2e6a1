"""The scorer as a process: it starts from flags and environment, answers grpcurl by reflection, and ends in order."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
import pytest

from sandbox.real.process import free_port
from sandbox.real.tools import tool
from scorer.__main__ import Settings, parse_sources
from scorer.core.merge import Source
from tests.heat.fake_prometheus import FakePrometheus, raw
from tests.real import require_real

GOLDEN = (
    b'{"status":"success","data":{"resultType":"vector","result":[{"metric":{"volume_id":"pvc-abc123"},'
    b'"value":[1706867400.123,"5234.56"]}]}}'
)


@dataclass(frozen=True)
class Program:
    process: asyncio.subprocess.Process
    grpc: str
    health: str


async def start(*arguments: str, **environment: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "scorer",
        *arguments,
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


@asynccontextmanager
async def program(prometheus: FakePrometheus) -> AsyncIterator[Program]:
    """Run it until the block ends; it is ready when the block begins."""
    grpc, metrics, health = (f"127.0.0.1:{free_port()}" for _ in range(3))
    process = await start(
        "--grpc-addr", grpc, "--metrics-addr", metrics, HEALTH_ADDR=health, PROMETHEUS_URL=prometheus.url
    )
    try:
        async with asyncio.timeout(30), aiohttp.ClientSession() as session:
            while not await ready(session, health):
                assert process.returncode is None, (await process.communicate())[1].decode()
                await asyncio.sleep(0.02)
        yield Program(process, grpc, health)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def ready(session: aiohttp.ClientSession, health: str) -> bool:
    try:
        async with session.get(f"http://{health}/readyz") as answer:
            return answer.status == 200
    except aiohttp.ClientConnectionError:
        return False


async def grpcurl(*arguments: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        tool("grpcurl"), "-plaintext", *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode()


async def test_it_answers_grpcurl_from_reflection_alone() -> None:
    require_real("grpcurl")
    async with FakePrometheus(raw(GOLDEN)) as prometheus, program(prometheus) as running:
        code, listed = await grpcurl(running.grpc, "list")
        assert code == 0
        assert "couchestor.scorer.v1.ScorerService" in listed.split()
        _, described = await grpcurl(running.grpc, "describe", "couchestor.scorer.v1.ScorerService")
        assert "rpc GetHeatScore" in described
        method = "couchestor.scorer.v1.ScorerService/GetHeatScore"
        code, answer = await grpcurl("-d", '{"volume_id": "pvc-abc123", "window": "3600s"}', running.grpc, method)
        assert code == 0, answer
        heat = json.loads(answer)["heat_score"]
        assert (heat["volume_id"], heat["score"], heat["window"], heat["quality"]) == (
            "pvc-abc123",
            5234.56,
            "3600s",
            "HEAT_QUALITY_OK",
        )
        code, refused = await grpcurl("-d", '{"volume_id": "", "window": "0s"}', running.grpc, method)
        assert code != 0
        assert "InvalidArgument" in refused
        assert "volume_id" in refused


async def test_it_ends_in_order_when_told_to() -> None:
    async with FakePrometheus(raw(GOLDEN)) as prometheus, program(prometheus) as running:
        running.process.send_signal(signal.SIGTERM)
        output, errors = await asyncio.wait_for(running.process.communicate(), 20)
    assert running.process.returncode == 0
    assert errors.decode() == ""
    events = [json.loads(line)["event"] for line in output.decode().splitlines()]
    assert events[-1] == "stopped"
    assert "crashed" not in events


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (("--prometheus-url", "prometheus"), "'prometheus' is not a URL of Prometheus"),
        (("--heat-sources", "gauge,thermometer"), "'thermometer' is none; there are gauge, counters"),
        (("--heat-sources", ""), "'' is none"),
        (("--heat-cache-ttl-seconds", "-1"), "--heat-cache-ttl-seconds"),
        (("--min-window-seconds", "nan"), "--min-window-seconds"),
        (("--no-such-flag",), "no-such-flag"),
    ],
)
async def test_a_setting_that_is_wrong_is_told_in_one_line_with_exit_code_2(
    flags: tuple[str, ...], complaint: str
) -> None:
    process = await start(*flags)
    output, errors = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 2
    assert output == b""
    (line,) = errors.decode().splitlines()
    assert line.startswith("couchestor-scorer: ")
    assert complaint in line


async def test_an_address_that_is_taken_is_told_and_ends_it() -> None:
    async with FakePrometheus(raw(GOLDEN)) as prometheus, program(prometheus) as running:
        second = await start("--grpc-addr", running.grpc, "--metrics-addr", "127.0.0.1:0")
        _, errors = await asyncio.wait_for(second.communicate(), 30)
    assert second.returncode == 2
    assert errors.decode() == (
        f"couchestor-scorer: --grpc-addr {running.grpc}: cannot be listened on: Address already in use; "
        "choose another address\n"
    )


@pytest.mark.parametrize(
    ("text", "sources"),
    [
        ("gauge", (Source.GAUGE,)),
        ("counters, gauge", (Source.COUNTERS, Source.GAUGE)),
    ],
)
def test_the_order_of_the_sources_is_the_order_they_are_named_in(text: str, sources: tuple[Source, ...]) -> None:
    assert parse_sources(text) == sources


def test_a_source_named_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="once"):
        Settings(heat_sources="gauge,gauge")
