"""
While Prometheus hangs, a person who asks gets an answer that says so, not a deadline that has passed.

Scorer, planner and the command are the real ones, with the time-outs that they have by default: 30 s for Prometheus
and 40 s for the scorer, both longer than the command waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from cli.__main__ import main
from tests.heat.fake_prometheus import FakePrometheus, element, gauge_only
from tests.policies import cluster
from tests.wire import test_scorer_wire as wire

DEADLINE = "2"
Ask = Callable[..., Awaitable[tuple[int, str, str]]]


@pytest.fixture
async def released() -> AsyncIterator[asyncio.Event]:
    event = asyncio.Event()
    yield event
    event.set()


@pytest.fixture
async def hanging(released: asyncio.Event) -> AsyncIterator[FakePrometheus]:
    """A Prometheus that answers nothing until it is released."""

    async def hang(request: Any) -> Any:
        await released.wait()
        return await gauge_only(element("6500", volume_id="pvc-hot"))(request)

    async with FakePrometheus(hang) as prometheus:
        yield prometheus


@pytest.fixture
async def ask(
    hanging: FakePrometheus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> AsyncIterator[Ask]:
    """Run a command against services that wait for it."""
    stage = cluster.a_stage()
    stage.add_policy("tiering")
    stage.add_volume("pvc-hot", "sata-1")
    monkeypatch.setenv("COLUMNS", "400")
    async with wire.running(hanging) as scorer:
        addr = f"127.0.0.1:{scorer.ports.grpc}"
        async with cluster.running(stage, tmp_path, scorer_addr=addr) as planner:
            await planner.until(lambda: "placements known" in planner.log.getvalue())
            monkeypatch.setenv("SCORER_ADDR", addr)
            monkeypatch.setenv("PLANNER_ADDR", f"127.0.0.1:{planner.ports.grpc}")

            async def command(*argv: str) -> tuple[int, str, str]:
                capsys.readouterr()
                code = await asyncio.to_thread(main, [*argv, "--deadline", DEADLINE])
                said = capsys.readouterr()
                return code, said.out, said.err

            yield command


async def test_explain_says_that_heat_is_unavailable(ask: Ask) -> None:
    code, said, complaints = await ask("explain", "pvc-hot")
    assert (code, complaints) == (0, "")
    assert "HeatUnavailable" in said
    assert "the scorer has not answered within" in said


async def test_preview_says_that_the_policy_is_held(ask: Ask) -> None:
    code, said, complaints = await ask("preview", "tiering")
    assert (code, complaints) == (0, "")
    assert "The policy does nothing: HeatUnavailable" in said


async def test_top_says_that_prometheus_does_not_answer(ask: Ask) -> None:
    code, said, complaints = await ask("top")
    assert (code, complaints) == (0, "")
    assert "UNAVAILABLE: Prometheus does not answer" in said


async def test_the_question_goes_on_and_who_asks_later_has_its_answer(
    ask: Ask, hanging: FakePrometheus, released: asyncio.Event
) -> None:
    await ask("top", "--window", "2h")
    asked = len(hanging.requests)
    released.set()
    code, said, _ = await ask("top", "--window", "2h")
    assert code == 0
    assert "pvc-hot" in said
    assert len(hanging.requests) == asked
