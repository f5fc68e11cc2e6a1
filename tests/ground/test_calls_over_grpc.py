"""
What every call of every service has in common: its errors, its log, its counts, and how it ends.
"""

from __future__ import annotations

import asyncio
import io
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from couchestor.scorer.v1 import scorer_pb2, scorer_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from common.config import SettingError
from common.logs import make_logger
from common.metrics import new_registry
from common.reasons import Reason
from common.rpc import errors
from common.rpc.channel import open_channel, open_sync_channel
from common.rpc.server import GrpcServer

SERVICE = "couchestor.scorer.v1.ScorerService"
IDEMPOTENT = ("GetHeatScore", "StreamHeatScores")
DEADLINE = 10.0


class Scorer(scorer_pb2_grpc.ScorerServiceServicer):
    """Does what the volume's name says."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.cleaned = asyncio.Event()
        self.release = asyncio.Event()
        self.calls = 0
        self.streamed = ""
        """What a stream says instead: its request names no volume."""

    async def GetHeatScore(self, request: Any, context: Any) -> scorer_pb2.GetHeatScoreResponse:
        self.calls += 1
        await self._act(request.volume_id, context)
        return scorer_pb2.GetHeatScoreResponse(heat_score=scorer_pb2.HeatScore(volume_id=request.volume_id))

    async def BatchGetHeatScores(self, request: Any, context: Any) -> scorer_pb2.BatchGetHeatScoresResponse:
        return scorer_pb2.BatchGetHeatScoresResponse()

    async def ListHottestVolumes(self, request: Any, context: Any) -> scorer_pb2.ListHottestVolumesResponse:
        self.calls += 1
        raise errors.Unavailable("never")

    async def StreamHeatScores(self, request: Any, context: Any) -> AsyncIterator[scorer_pb2.StreamHeatScoresResponse]:
        self.calls += 1
        yield scorer_pb2.StreamHeatScoresResponse()
        await self._act(self.streamed, context)
        yield scorer_pb2.StreamHeatScoresResponse()

    async def _act(self, name: str, context: Any) -> None:
        match name:
            case "empty":
                raise errors.InvalidArgument("volume_id", "volume_id is empty: name a volume")
            case "unsafe":
                raise errors.FailedPrecondition(Reason.SAME_NODE, "both pools are on node-1")
            case "full":
                raise errors.ResourceExhausted(Reason.GLOBAL_CAP, "2 of 2 migrations are under way")
            case "unknown":
                raise errors.NotFound("no volume pvc-x: see `couchestor top`")
            case "twice":
                raise errors.AlreadyExists("request_id r is volume pvc-y's")
            case "not-yet" if self.calls < 3:
                raise errors.Unavailable("not yet")
            case "bug":
                raise KeyError("the secret")
            case "long":
                raise errors.NotFound("é" * 50_000)
            case "abort":
                await context.abort(grpc.StatusCode.OUT_OF_RANGE, "by hand")
            case "set":
                context.set_code(grpc.StatusCode.DATA_LOSS)
                context.set_details("by hand")
            case "slow":
                await self._dawdle()

    async def _dawdle(self) -> None:
        try:
            self.started.set()
            await self.release.wait()
        finally:
            self.cleaned.set()


class Running:
    """A server, what it logged and counted, and a client of it."""

    def __init__(self, *, drain_seconds: float = 5.0) -> None:
        self.scorer = Scorer()
        self.stream = io.StringIO()
        self.registry = new_registry()
        self.server = GrpcServer(
            "127.0.0.1:0",
            lambda server: scorer_pb2_grpc.add_ScorerServiceServicer_to_server(self.scorer, server),
            (SERVICE,),
            log=make_logger("scorer", level="INFO", json=True, stream=self.stream),
            registry=self.registry,
            insecure_bind=False,
            drain_seconds=drain_seconds,
        )
        self.channel: grpc.aio.Channel

    @property
    def stub(self) -> Any:
        return scorer_pb2_grpc.ScorerServiceStub(self.channel)

    async def get(self, name: str, timeout: float = DEADLINE) -> Any:
        return await self.stub.GetHeatScore(scorer_pb2.GetHeatScoreRequest(volume_id=name), timeout=timeout)

    def stream_of(self, name: str) -> Any:
        self.scorer.streamed = name
        return self.stub.StreamHeatScores(scorer_pb2.StreamHeatScoresRequest(), timeout=DEADLINE)

    async def health(self, service: str) -> Any:
        stub: Any = health_pb2_grpc.HealthStub(self.channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=DEADLINE)
        return answer.status

    def logged(self, event: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.stream.getvalue().splitlines()]
        return [line for line in lines if line["event"] == event]

    def handled(self, method: str, code: str) -> float:
        labels = {"service": SERVICE, "method": method, "code": code}
        return self.registry.get_sample_value("couchestor_grpc_server_handled_total", labels) or 0.0


@asynccontextmanager
async def serving(*, idempotent: tuple[str, ...] = IDEMPOTENT, **settings: Any) -> AsyncIterator[Running]:
    running = Running(**settings)
    async with (
        running.server,
        open_channel(f"127.0.0.1:{running.server.port}", service=SERVICE, idempotent=idempotent) as channel,
    ):
        running.channel = channel
        yield running


async def failure(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return error.value


async def until(condition: Any) -> None:
    async with asyncio.timeout(DEADLINE):
        while not condition():  # noqa: ASYNC110 - what is waited for is told by no event
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    ("name", "code", "said", "reason"),
    [
        ("empty", "INVALID_ARGUMENT", "INVALID_ARGUMENT (volume_id): volume_id is empty: name a volume", None),
        ("unsafe", "FAILED_PRECONDITION", "FAILED_PRECONDITION (SameNode): both pools are on node-1", "SameNode"),
        ("full", "RESOURCE_EXHAUSTED", "RESOURCE_EXHAUSTED (GlobalCap): 2 of 2 migrations are under way", "GlobalCap"),
        ("unknown", "NOT_FOUND", "NOT_FOUND: no volume pvc-x: see `couchestor top`", None),
        ("twice", "ALREADY_EXISTS", "ALREADY_EXISTS: request_id r is volume pvc-y's", None),
        ("abort", "OUT_OF_RANGE", "OUT_OF_RANGE: by hand", None),
        ("set", "DATA_LOSS", "DATA_LOSS: by hand", None),
    ],
)
async def test_an_error_of_the_logic_reaches_the_caller_whole(
    name: str, code: str, said: str, reason: str | None
) -> None:
    async with serving() as running:
        for call in (running.get(name), drained(running.stream_of(name))):
            error = await failure(call)
            assert error.code().name == code
            assert errors.describe(error) == said
            assert errors.reason_of(error) == reason
        for method in ("GetHeatScore", "StreamHeatScores"):
            assert running.handled(method, code) == 1
        assert [line["code"] for line in running.logged("call")] == [code, code]


async def drained(stream: Any) -> int:
    """Read a stream to its end; return how many messages it had."""
    return len([message async for message in stream])


async def test_a_blocking_client_reads_errors_the_same_way() -> None:
    async with serving() as running:

        def call() -> grpc.RpcError:
            addr = f"127.0.0.1:{running.server.port}"
            with open_sync_channel(addr, service=SERVICE, idempotent=IDEMPOTENT) as channel:
                stub = scorer_pb2_grpc.ScorerServiceStub(channel)
                with pytest.raises(grpc.RpcError) as error:
                    stub.GetHeatScore(scorer_pb2.GetHeatScoreRequest(volume_id="unsafe"), timeout=DEADLINE)
                return error.value

        error = await asyncio.to_thread(call)
        assert errors.describe(error) == "FAILED_PRECONDITION (SameNode): both pools are on node-1"
        assert errors.reason_of(error) == "SameNode"


@pytest.mark.parametrize("kind", ["unary", "stream"])
async def test_a_bug_is_internal_tells_the_caller_nothing_and_the_log_all(kind: str) -> None:
    async with serving() as running:
        call = running.get("bug") if kind == "unary" else drained(running.stream_of("bug"))
        error = await failure(call)
        assert error.code() is grpc.StatusCode.INTERNAL
        assert "secret" not in (error.details() or "")
        (line,) = running.logged("call crashed")
        assert "KeyError: 'the secret'" in line["exception"]
        assert line["level"] == "error"
        assert (await running.get("fine")).heat_score.volume_id == "fine"


async def test_an_endless_message_is_cut_and_still_arrives() -> None:
    async with serving() as running:
        error = await failure(running.get("long"))
        assert error.code() is grpc.StatusCode.NOT_FOUND
        assert (error.details() or "").endswith("é…")


async def test_a_good_call_is_logged_with_its_method_code_time_and_peer_and_counted() -> None:
    async with serving() as running:
        await running.get("fine")
        assert await drained(running.stream_of("fine")) == 2
        first, second = running.logged("call")
        assert first["method"] == f"{SERVICE}/GetHeatScore"
        assert second["method"] == f"{SERVICE}/StreamHeatScores"
        assert first["code"] == "OK"
        assert first["seconds"] >= 0
        assert first["peer"].startswith("ipv4:127.0.0.1:")
        assert running.handled("GetHeatScore", "OK") == 1
        labels = {"service": SERVICE, "method": "GetHeatScore"}
        assert running.registry.get_sample_value("couchestor_grpc_server_seconds_count", labels) == 1


@pytest.mark.parametrize("kind", ["unary", "stream"])
async def test_a_caller_who_hangs_up_frees_what_the_call_held(kind: str) -> None:
    async with serving() as running:
        call = (
            running.stub.GetHeatScore(scorer_pb2.GetHeatScoreRequest(volume_id="slow"))
            if kind == "unary"
            else running.stream_of("slow")
        )
        reading = asyncio.ensure_future(call.wait_for_connection() if kind == "unary" else call.read())
        await asyncio.wait_for(running.scorer.started.wait(), DEADLINE)
        call.cancel()
        await asyncio.wait_for(running.scorer.cleaned.wait(), DEADLINE)
        method = "GetHeatScore" if kind == "unary" else "StreamHeatScores"
        await until(lambda: running.handled(method, "CANCELLED") == 1)
        assert running.logged("call crashed") == []
        reading.cancel()


async def test_a_call_whose_time_is_up_is_counted_as_that() -> None:
    async with serving() as running:
        error = await failure(running.get("slow", timeout=0.3))
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await asyncio.wait_for(running.scorer.cleaned.wait(), DEADLINE)
        await until(lambda: running.handled("GetHeatScore", "DEADLINE_EXCEEDED") == 1)


async def test_an_idempotent_call_is_tried_again_while_the_server_is_unavailable() -> None:
    async with serving() as running:
        assert (await running.get("not-yet")).heat_score.volume_id == "not-yet"
        assert running.scorer.calls == 3


async def test_any_other_call_is_made_once() -> None:
    async with serving() as running:
        error = await failure(
            running.stub.ListHottestVolumes(scorer_pb2.ListHottestVolumesRequest(limit=1), timeout=DEADLINE)
        )
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert running.scorer.calls == 1


async def test_an_idempotent_call_that_is_refused_is_made_once() -> None:
    async with serving() as running:
        await failure(running.get("unsafe"))
        assert running.scorer.calls == 1


async def test_where_nobody_listens_the_caller_is_told_so_in_one_line() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        addr = f"127.0.0.1:{unused.getsockname()[1]}"
        async with open_channel(addr, service=SERVICE, idempotent=()) as channel:
            stub: Any = scorer_pb2_grpc.ScorerServiceStub(channel)
            error = await failure(stub.GetHeatScore(scorer_pb2.GetHeatScoreRequest(), timeout=DEADLINE))
    assert errors.describe(error).startswith("UNAVAILABLE: ")
    assert "\n" not in errors.describe(error)
    assert errors.reason_of(error) is None


async def test_details_that_are_nonsense_are_passed_over() -> None:
    for value in (b"\xff\xff", b""):
        metadata = grpc.aio.Metadata((errors.DETAILS_KEY, value), ("other", "text"))
        error = grpc.aio.AioRpcError(grpc.StatusCode.ABORTED, grpc.aio.Metadata(), metadata, "by a proxy", "")
        assert errors.describe(error) == "ABORTED: by a proxy"
        assert errors.reason_of(error) is None


async def test_a_message_beyond_16_mebibytes_is_refused_and_the_server_goes_on() -> None:
    async with serving() as running:
        error = await failure(running.get("x" * (17 * 2**20)))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (await running.get("y" * (15 * 2**20))).heat_score.volume_id.startswith("yyy")


async def test_health_has_an_entry_for_the_whole_each_service_and_what_else_is_set() -> None:
    serving_, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
    async with serving() as running:
        assert [await running.health(name) for name in ("", SERVICE)] == [serving_, serving_]
        error = await failure(running.health("prometheus"))
        assert error.code() is grpc.StatusCode.NOT_FOUND
        running.server.set_health("prometheus", False)
        assert await running.health("prometheus") == not_serving
        running.server.set_health("prometheus", True)
        assert await running.health("prometheus") == serving_
        assert running.logged("call") == [], "probes make no noise"


async def test_reflection_lists_the_services() -> None:
    async with serving() as running:
        channel: Any = running.channel  # the stub is typed for blocking channels only
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        call = stub.ServerReflectionInfo(timeout=DEADLINE)
        await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        answer = await call.read()
        await call.done_writing()
        names = {service.name for service in answer.list_services_response.service}
        assert {SERVICE, "grpc.health.v1.Health"} <= names


@pytest.fixture
def _streams_end_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.rpc.server.STREAM_SECONDS", 0.1)


@pytest.mark.usefixtures("_streams_end_soon")
async def test_at_a_shutdown_calls_under_way_end_well_and_health_says_so_first() -> None:
    async with serving() as running:
        stub: Any = health_pb2_grpc.HealthStub(running.channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=SERVICE), timeout=DEADLINE)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        call = asyncio.ensure_future(running.get("slow"))
        await asyncio.wait_for(running.scorer.started.wait(), DEADLINE)
        leaving = asyncio.ensure_future(running.server.__aexit__(None, None, None))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert not leaving.done()
        running.scorer.release.set()
        assert (await call).heat_score.volume_id == "slow"
        await asyncio.wait_for(leaving, DEADLINE)


@pytest.mark.usefixtures("_streams_end_soon")
async def test_at_a_shutdown_a_stream_without_end_is_ended_and_may_be_opened_elsewhere() -> None:
    async with serving(drain_seconds=60.0) as running:
        stream = running.stream_of("slow")
        await stream.read()
        reading = asyncio.ensure_future(stream.read())
        await asyncio.wait_for(running.scorer.started.wait(), DEADLINE)
        async with asyncio.timeout(DEADLINE):
            await running.server.__aexit__(None, None, None)
        error = await failure(reading)
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert "shutting down" in (error.details() or "")
        assert running.scorer.cleaned.is_set()
        assert running.handled("StreamHeatScores", "UNAVAILABLE") == 1


async def test_at_a_shutdown_a_call_that_takes_too_long_is_cut_off() -> None:
    async with serving(drain_seconds=0.1, idempotent=()) as running:  # nor is it tried again where nobody listens
        call = asyncio.ensure_future(running.get("slow"))
        await asyncio.wait_for(running.scorer.started.wait(), DEADLINE)
        async with asyncio.timeout(DEADLINE):
            await running.server.__aexit__(None, None, None)
        await failure(call)
        await asyncio.wait_for(running.scorer.cleaned.wait(), DEADLINE)


async def test_a_taken_port_is_told_in_one_line() -> None:
    async with serving() as running:
        second = Running()
        taken = GrpcServer(
            f"127.0.0.1:{running.server.port}",
            lambda server: None,
            (),
            log=make_logger("scorer", level="INFO", json=True, stream=io.StringIO()),
            registry=second.registry.__class__(),
            insecure_bind=False,
            drain_seconds=0,
        )
        with pytest.raises(SettingError, match=f"--grpc-addr 127.0.0.1:{running.server.port}: .* in use") as error:
            await taken.__aenter__()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("addr", "insecure_bind", "refused"),
    [
        ("127.0.0.1:0", False, False),
        ("[::1]:0", False, False),
        ("localhost:0", False, False),
        (":0", False, False),
        (":0", True, False),
        ("0.0.0.0:0", True, False),
        ("0.0.0.0:0", False, True),
        ("10.1.2.3:50051", False, True),
        ("scorer.example:50051", False, True),
        ("[::]:0", False, True),
    ],
)
def test_plain_text_is_served_beyond_loopback_only_when_told_so(addr: str, insecure_bind: bool, refused: bool) -> None:
    def make() -> GrpcServer:
        return GrpcServer(
            addr,
            lambda server: None,
            (),
            log=make_logger("scorer", level="INFO", json=True, stream=io.StringIO()),
            registry=new_registry(),
            insecure_bind=insecure_bind,
            drain_seconds=0,
        )

    if refused:
        with pytest.raises(SettingError, match="--insecure-bind"):
            make()
    else:
        make()
