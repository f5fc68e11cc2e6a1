"""
What a running service shows of itself: its log, its metrics, and whether it lives and is ready.
"""

from __future__ import annotations

import io
import json
import logging
import socket
from functools import partial
from typing import Any

import aiohttp
import pytest
from prometheus_client import Counter, Gauge

from common.config import SettingError
from common.logs import capture_libraries, make_logger
from common.metrics import MetricsServer, new_registry
from common.probes import ProbeServer, Readiness
from common.reasons import Reason
from tests.clock import ManualClock

PLAIN = "text/plain; version=0.0.4; charset=utf-8"


class Written:
    """A log stream and what is in it."""

    def __init__(self, *, level: str = "INFO", json: bool = True) -> None:
        self.stream = io.StringIO()
        self.log = make_logger("scorer", level=level, json=json, stream=self.stream, clock=ManualClock())

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]


async def fetch(url: str, **headers: str) -> tuple[int, str, str]:
    async with (
        aiohttp.ClientSession(skip_auto_headers=["Accept"]) as session,
        session.get(url, headers=headers, timeout=aiohttp.ClientTimeout(10)) as answer,
    ):
        return answer.status, answer.headers["Content-Type"], await answer.text()


def test_an_event_is_one_line_of_json_with_its_time_level_and_service() -> None:
    written = Written()
    written.log.bind(policy="p").info("reconciled", volumes=50, reason=Reason.MOVED)
    assert written.lines == [
        {
            "time": "2026-02-02T10:30:00.000Z",
            "level": "info",
            "service": "scorer",
            "event": "reconciled",
            "policy": "p",
            "volumes": 50,
            "reason": "Moved",
        }
    ]


def test_what_is_below_the_level_is_not_logged() -> None:
    written = Written(level="warning")
    written.log.info("chatter")
    written.log.warning("trouble")
    assert [line["event"] for line in written.lines] == ["trouble"]


def test_a_traceback_stays_in_its_line() -> None:
    written = Written()
    try:
        raise KeyError("x")
    except KeyError:
        written.log.exception("crashed")
    (line,) = written.lines
    assert "Traceback" in line["exception"]
    assert "KeyError: 'x'" in line["exception"]


def test_what_json_cannot_say_is_logged_all_the_same() -> None:
    written = Written()
    written.log.info("odd", value=object(), number=float("nan"), data=b"\xff", inner={1: {"a"}})
    (line,) = written.lines
    assert line["value"].startswith("<object object")
    assert line["number"] is None


def test_text_for_a_person_has_the_event_and_its_fields() -> None:
    written = Written(json=False)
    written.log.info("reconciled", volumes=50)
    assert "reconciled" in written.stream.getvalue()
    assert "volumes=50" in written.stream.getvalue()


def test_two_loggers_in_one_process_do_not_mix() -> None:
    one, other = Written(), Written(level="DEBUG")
    one.log.info("a")
    other.log.debug("b")
    assert [line["event"] for line in one.lines] == ["a"]
    assert [line["event"] for line in other.lines] == ["b"]


def test_a_level_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="'LOUD' is not one of DEBUG, INFO, WARNING, ERROR"):
        make_logger("scorer", level="LOUD", json=True)


def test_what_libraries_log_comes_out_the_same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    written = Written()
    capture_libraries(written.log)
    logging.getLogger("aiohttp.server").warning("odd request from %s", "somewhere")
    logging.getLogger("aiohttp.server").info("noise")
    try:
        raise KeyError("x")
    except KeyError:
        logging.getLogger("asyncio").exception("forgotten")
    first, second = written.lines
    assert first["event"] == "odd request from somewhere"
    assert (first["level"], first["library"]) == ("warning", "aiohttp.server")
    assert "KeyError: 'x'" in second["exception"]


async def test_metrics_without_an_accept_header_are_what_the_specification_says() -> None:
    registry = new_registry()
    reconciles = Counter("storage_operator_reconcile_total", "Total number of reconciliations", registry=registry)
    ended = Counter("storage_operator_migrations_total", "Total number of migrations", ("status",), registry=registry)
    active = Gauge("storage_operator_active_migrations", "Current active migrations", registry=registry)
    reconciles.inc(1523)
    ended.labels("success").inc(145)
    active.set(1)
    async with MetricsServer("127.0.0.1:0", registry) as server:
        url = f"http://127.0.0.1:{server.port}/metrics"
        status, content_type, text = await fetch(url)
        assert (status, content_type) == (200, PLAIN)
        assert (await fetch(url, Accept="*/*"))[1] == PLAIN
        assert "openmetrics" in (await fetch(url, Accept="application/openmetrics-text; version=1.0.0"))[1]
        assert (await fetch(url.replace("/metrics", "/")))[0] == 404
    assert text.splitlines() == [
        "# HELP storage_operator_reconcile_total Total number of reconciliations",
        "# TYPE storage_operator_reconcile_total counter",
        "storage_operator_reconcile_total 1523.0",
        "# HELP storage_operator_migrations_total Total number of migrations",
        "# TYPE storage_operator_migrations_total counter",
        'storage_operator_migrations_total{status="success"} 145.0',
        "# HELP storage_operator_active_migrations Current active migrations",
        "# TYPE storage_operator_active_migrations gauge",
        "storage_operator_active_migrations 1.0",
    ]


async def test_registries_share_nothing_and_can_tell_of_the_process() -> None:
    first, second = new_registry(), new_registry(process=True)
    Counter("a_total", "A", registry=first)
    assert second.get_sample_value("a_total") is None
    assert first.get_sample_value("process_resident_memory_bytes") is None
    assert (second.get_sample_value("process_resident_memory_bytes") or 0) > 0


async def test_a_service_lives_before_it_is_ready_and_says_what_it_waits_for() -> None:
    readiness = Readiness()
    waiting: dict[str, str | None] = {"policies": "not yet listed", "placements": "no snapshot yet", "grpc": None}
    for name in tuple(waiting):
        readiness.add(name, partial(waiting.get, name))
    async with ProbeServer("127.0.0.1:0", readiness) as server:
        url = f"http://127.0.0.1:{server.port}"
        assert (await fetch(f"{url}/healthz"))[0] == 200
        assert (await fetch(f"{url}/livez"))[0] == 200
        status, _, text = await fetch(f"{url}/readyz")
        assert status == 503
        assert text == "policies: not yet listed\nplacements: no snapshot yet\n"
        waiting.update(policies=None, placements=None)
        assert await fetch(f"{url}/readyz") == (200, "text/plain; charset=utf-8", "ok\n")


async def test_a_check_that_breaks_is_a_part_that_is_not_ready() -> None:
    readiness = Readiness()

    def broken() -> str | None:
        raise KeyError("x")

    readiness.add("cache", broken)
    assert readiness.reasons() == ("cache: its check failed: KeyError: 'x'",)
    with pytest.raises(ValueError, match="exists already"):
        readiness.add("cache", broken)


async def test_a_taken_port_is_told_in_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SettingError, match=f"--health-addr 127.0.0.1:{port}: .*; choose another address"):
            async with ProbeServer(f"127.0.0.1:{port}", Readiness()):
                pass


async def test_without_a_host_every_interface_is_served() -> None:
    async with MetricsServer(":0", new_registry()) as server:
        assert (await fetch(f"http://127.0.0.1:{server.port}/metrics"))[0] == 200
