"""What Prometheus may answer: each answer that is none ends in one line that says what was wrong, and never in data."""

import asyncio
import gzip
import re
import ssl
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from scorer.core.merge import Sample
from scorer.prometheus import Failure, HttpPrometheus, PrometheusError, query_url
from tests.heat.fake_prometheus import FakePrometheus, element, json, lines, raw, raw_server, vector

QUERY = "avg_over_time(openebs_volume_iops[3600s])"
GOLDEN = (
    b'{"status":"success","data":{"resultType":"vector","result":[{"metric":{"__name__":"openebs_volume_iops",'
    b'"volume_id":"pvc-abc123","pool":"pool-sata-1"},"value":[1706867400.123,"5234.567"]}]}}'
)


@pytest_asyncio.fixture
async def fake() -> AsyncIterator[FakePrometheus]:
    async with FakePrometheus() as running:
        yield running


async def ask(url: str, *, timeout_seconds: float = 10.0, **options: Any) -> Sequence[Sample]:
    async with HttpPrometheus(url, timeout_seconds=timeout_seconds, **options) as prometheus:
        return await prometheus.query(QUERY)


async def failure(url: str, **options: Any) -> PrometheusError:
    with pytest.raises(PrometheusError) as caught:
        await ask(url, **options)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    return caught.value


async def test_the_request_is_the_specifications(fake: FakePrometheus) -> None:
    await ask(fake.url)
    (request,) = fake.requests
    assert (request.method, request.path, dict(request.query)) == ("GET", "/api/v1/query", {"query": QUERY})
    assert request.headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert request.headers["Accept"] == "application/json"
    assert "Authorization" not in request.headers


async def test_the_specifications_answer_is_read(fake: FakePrometheus) -> None:
    fake.answer = raw(GOLDEN)
    assert await ask(fake.url) == [Sample(value=5234.567, volume_id="pvc-abc123")]


async def test_an_empty_vector_is_an_answer(fake: FakePrometheus) -> None:
    assert await ask(fake.url) == []


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0.0),
        ("5234.56", 5234.56),
        ("1e+300", 1e300),
        ("+Inf", float("inf")),
        ("-Inf", float("-inf")),
        ("-1", -1.0),
    ],
)
async def test_values_are_read_as_prometheus_writes_them(fake: FakePrometheus, text: str, value: float) -> None:
    fake.answer = json(vector(element(text, volume_id="v")))
    assert [sample.value for sample in await ask(fake.url)] == [value]


async def test_not_a_number_is_a_value_too(fake: FakePrometheus) -> None:
    fake.answer = json(vector(element("NaN", volume_id="v")))
    (sample,) = await ask(fake.url)
    assert sample.value != sample.value


async def test_a_histogram_beside_samples_is_passed_over(fake: FakePrometheus) -> None:
    histogram = {"metric": {"volume_id": "h"}, "histogram": [1706867400.123, {"count": "1", "sum": "2"}]}
    fake.answer = json(vector(histogram, element("1", volume_id="v")))
    assert [sample.volume_id for sample in await ask(fake.url)] == ["v"]


@pytest.mark.parametrize(
    "remarks",
    [
        {"infos": ["PromQL info: metric might not be a counter, name does not end in _total"]},
        {
            "warnings": [
                "PromQL info: metric might not be a counter",
                "PromQL warning: quantile value should be in 0..1",
            ]
        },
        {"warnings": None, "isPartial": False, "stats": {"seriesFetched": "1"}, "trace": {}},
    ],
)
async def test_remarks_that_leave_nothing_out_are_no_failure(fake: FakePrometheus, remarks: dict[str, object]) -> None:
    fake.answer = json(vector(element("1", volume_id="v"), **remarks))
    assert len(await ask(fake.url)) == 1


@pytest.mark.parametrize(
    "remarks", [{"warnings": ["No StoreAPIs matched for this query"]}, {"isPartial": True}], ids=["thanos", "victoria"]
)
async def test_an_answer_that_may_lack_volumes_is_none(fake: FakePrometheus, remarks: dict[str, object]) -> None:
    fake.answer = json(vector(element("1", volume_id="v"), **remarks))
    error = await failure(fake.url)
    assert error.failure is Failure.PARTIAL
    assert "may lack series" in str(error)


BAD = {
    "html": (
        raw(b"<html><body>Log in</body></html>", content_type="text/html"),
        "not an answer of the query API.*html",
    ),
    "nothing": (raw(b""), "an empty body"),
    "half a document": (raw(GOLDEN[:90]), "truncated"),
    "two documents": (raw(GOLDEN + GOLDEN), "trailing"),
    "not text": (raw(b"\xff\xfe\x00\x01" * 10), "malformed"),
    "binary that is json up to a string": (raw(b'{"status":"\xff"}'), "not an answer"),
    "a list": (json([]), "Expected `object`, got `array`"),
    "a word": (json("success"), "Expected `object`, got `str`"),
    "no status": (json({"data": {"resultType": "vector", "result": []}}), "status"),
    "no data": (json({"status": "success"}), "no data"),
    "no result type": (json({"status": "success", "data": {"result": []}}), "resultType"),
    "a matrix": (json({"status": "success", "data": {"resultType": "matrix", "result": []}}), "has matrix"),
    "a scalar": (json({"status": "success", "data": {"resultType": "scalar", "result": [1, "2"]}}), "has scalar"),
    "a result that is an object": (
        json({"status": "success", "data": {"resultType": "vector", "result": {}}}),
        "array",
    ),
    "an element without labels": (json(vector({"value": [1, "2"]})), "metric"),
    "a label that is a number": (json(vector({"metric": {"volume_id": 7}, "value": [1, "2"]})), "Expected `str`"),
    "a value that is a number": (json(vector({"metric": {}, "value": [1, 2.5]})), "Expected `str`"),
    "a value without its time": (json(vector({"metric": {}, "value": ["2"]})), "Expected `float`"),
    "a time without its value": (json(vector({"metric": {}, "value": [2.5]})), "length"),
    "a value that is a word": (json(vector(element("many", volume_id="v"))), "'many' is not a number"),
    "a value that only python reads": (json(vector(element("1_000", volume_id="v"))), "'1_000' is not a number"),
    "an empty value": (json(vector(element("", volume_id="v"))), "'' is not a number"),
    "depth without end": (raw(b'{"status":"success","x":' + b"[" * 100_000), "not an answer.*recursion"),
    "depth in a label": (
        raw(GOLDEN.replace(b'"pool-sata-1"', b"[" * 100_000 + b"]" * 100_000)),
        "recursion",
    ),
}


@pytest.mark.parametrize("case", BAD)
async def test_what_is_not_an_answer_of_the_api_is_malformed(fake: FakePrometheus, case: str) -> None:
    fake.answer, expected = BAD[case]
    error = await failure(fake.url)
    assert error.failure is Failure.MALFORMED
    assert re.search(expected, str(error)), str(error)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (
            json({"status": "error", "errorType": "bad_data", "error": "parse error: unclosed left parenthesis"}, 400),
            "answered 400 bad_data: parse error: unclosed left parenthesis",
        ),
        (
            json({"status": "error", "errorType": "timeout", "error": "query timed out"}, 503),
            "503 timeout: query timed",
        ),
        (
            json({"status": "error", "errorType": "execution", "error": "too many samples"}),
            "execution: too many samples",
        ),
        (raw(b"<html>Bad\nGateway</html>", status=502, content_type="text/html"), "answered 502: <html>Bad Gateway"),
        (raw(b"", status=401), "answered 401: an empty body"),
        (raw(b"", status=204), "answered 204"),
        (raw(b"", status=302, headers={"Location": "https://login.example/"}), "redirects to https://login.example/"),
        (raw(GOLDEN, status=500), "answered 500"),
    ],
)
async def test_a_refusal_is_told_in_the_words_of_the_server(fake: FakePrometheus, answer: Any, expected: str) -> None:
    fake.answer = answer
    error = await failure(fake.url)
    assert error.failure is Failure.REFUSED
    assert expected in str(error)
    assert len(fake.requests) == 1


async def test_a_redirect_is_not_followed_so_that_the_token_goes_nowhere_else(
    fake: FakePrometheus, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("secret")
    async with FakePrometheus(raw(GOLDEN)) as elsewhere:
        fake.answer = raw(b"", status=307, headers={"Location": f"{elsewhere.url}/api/v1/query"})
        await failure(fake.url, token_file=str(token))
        assert elsewhere.requests == []


async def test_a_body_above_the_bound_is_given_up_while_it_arrives(fake: FakePrometheus) -> None:
    sent = 0

    async def endless(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" " * 65_536)
            sent += 65_536

    fake.answer = endless
    error = await failure(fake.url, max_body_bytes=1_000_000)
    assert error.failure is Failure.MALFORMED
    assert "larger than 976 KiB" in str(error)
    assert sent < 50_000_000


async def test_a_small_body_that_unpacks_to_a_huge_one_is_given_up(fake: FakePrometheus) -> None:
    fake.answer = raw(gzip.compress(b" " * 20_000_000), headers={"Content-Encoding": "gzip"})
    assert "larger than" in str(await failure(fake.url, max_body_bytes=1_000_000))


async def test_a_packed_answer_is_read(fake: FakePrometheus) -> None:
    fake.answer = raw(gzip.compress(GOLDEN), headers={"Content-Encoding": "gzip"})
    assert len(await ask(fake.url)) == 1


async def test_a_wrongly_packed_answer_is_malformed(fake: FakePrometheus) -> None:
    fake.answer = raw(GOLDEN, headers={"Content-Encoding": "gzip"})
    assert (await failure(fake.url)).failure is Failure.MALFORMED


@pytest.mark.parametrize("sent", [b"", GOLDEN[:100]], ids=["before its first byte", "in its middle"])
async def test_an_answer_that_stalls_runs_into_the_time_out(sent: bytes) -> None:
    async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(lines("HTTP/1.1 200 OK", f"Content-Length: {len(GOLDEN)}") + sent if sent else b"")
        await writer.drain()
        await reader.read()  # until the client hangs up

    async with raw_server(stall) as url:
        error = await failure(url, timeout_seconds=0.2)
    assert error.failure is Failure.TIMEOUT
    assert "no complete answer within 200ms" in str(error)


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"", {Failure.UNREACHABLE}),
        (lines("HTTP/1.1 200 OK", f"Content-Length: {len(GOLDEN)}") + GOLDEN[:100], {Failure.MALFORMED}),
        (lines("HTTP/1.1 200 OK", "Transfer-Encoding: chunked") + b"10\r\n" + GOLDEN[:8], {Failure.MALFORMED}),
        (b"HTTP/1.1 200 OK\r\nContent-Le", {Failure.UNREACHABLE}),
        (b"SSH-2.0-OpenSSH_9.2\r\n", {Failure.UNREACHABLE}),
        (lines("HTTP/1.1 200 OK") + GOLDEN[:100], {Failure.MALFORMED}),
    ],
    ids=["nothing", "half a body", "half a chunk", "half a head", "another protocol", "a body of no stated length"],
)
async def test_a_connection_that_closes_half_way_brings_no_data(sent: bytes, expected: set[Failure]) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(sent)
        await writer.drain()

    async with raw_server(hang_up) as url:
        assert (await failure(url)).failure in expected


async def test_a_port_nobody_listens_on_is_unreachable(fake: FakePrometheus) -> None:
    url = fake.url
    await fake.stop()
    error = await failure(url)
    assert error.failure is Failure.UNREACHABLE
    assert url in str(error)


async def test_a_name_that_does_not_resolve_is_unreachable() -> None:
    assert (await failure("http://prometheus.invalid:9090")).failure is Failure.UNREACHABLE


async def test_after_any_failure_the_next_question_is_answered(fake: FakePrometheus) -> None:
    async with HttpPrometheus(fake.url, timeout_seconds=5.0) as prometheus:
        for answer in (raw(b"<html>"), raw(b"", status=503), raw(GOLDEN[:50])):
            fake.answer = answer
            with pytest.raises(PrometheusError):
                await prometheus.query(QUERY)
        await fake.stop()
        with pytest.raises(PrometheusError):
            await prometheus.query(QUERY)
        await fake.start()
        fake.answer = raw(GOLDEN)
        assert len(await prometheus.query(QUERY)) == 1


async def test_the_token_is_sent_and_a_renewed_one_is_used_at_once(fake: FakePrometheus, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("first\n")
    async with HttpPrometheus(fake.url, timeout_seconds=5.0, token_file=str(token)) as prometheus:
        await prometheus.query(QUERY)
        token.write_text("second\n")
        await prometheus.query(QUERY)
    assert [request.headers["Authorization"] for request in fake.requests] == ["Bearer first", "Bearer second"]


@pytest.mark.parametrize("content", [None, b"", b"\n", b"two\nlines", b"\xff\xfe"])
async def test_a_token_file_without_a_token_is_a_mistake_of_configuration(
    fake: FakePrometheus, tmp_path: Path, content: bytes | None
) -> None:
    token = tmp_path / "token"
    if content is not None:
        token.write_bytes(content)
    error = await failure(fake.url, token_file=str(token))
    assert error.failure is Failure.MISCONFIGURED
    assert str(token) in str(error)
    assert "two" not in str(error)
    assert fake.requests == []


def certificate(folder: Path, name: str) -> tuple[Path, ssl.SSLContext]:
    """A certificate for 127.0.0.1 that signed itself, as a file to trust, and a server's context with it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, key_pem = folder / f"{name}.pem", folder / f"{name}.key"
    pem.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    key_pem.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, key_pem)
    return pem, context


async def test_over_tls_only_a_server_of_the_given_authority_is_trusted(tmp_path: Path) -> None:
    trusted, context = certificate(tmp_path, "trusted")
    other, _ = certificate(tmp_path, "other")
    async with FakePrometheus(raw(GOLDEN), tls=context) as fake:
        assert len(await ask(fake.url, ca_file=str(trusted))) == 1
        for options in ({"ca_file": str(other)}, {}):
            error = await failure(fake.url, **options)
            assert error.failure is Failure.UNREACHABLE
            assert "certificate" in str(error).lower()


async def test_a_renewed_authority_is_used_at_once(tmp_path: Path) -> None:
    trusted, context = certificate(tmp_path, "trusted")
    other, _ = certificate(tmp_path, "other")
    ca = tmp_path / "ca.pem"
    ca.write_bytes(other.read_bytes())
    async with (
        FakePrometheus(raw(GOLDEN), tls=context) as fake,
        HttpPrometheus(fake.url, timeout_seconds=5.0, ca_file=str(ca)) as prometheus,
    ):
        with pytest.raises(PrometheusError):
            await prometheus.query(QUERY)
        ca.unlink()
        ca.write_bytes(trusted.read_bytes())
        assert len(await prometheus.query(QUERY)) == 1


@pytest.mark.parametrize("content", [None, b"", b"not a certificate"])
async def test_a_file_of_no_authority_is_a_mistake_of_configuration(tmp_path: Path, content: bytes | None) -> None:
    ca = tmp_path / "ca.pem"
    if content is not None:
        ca.write_bytes(content)
    error = await failure("https://127.0.0.1:1", ca_file=str(ca))
    assert error.failure is Failure.MISCONFIGURED
    assert str(ca) in str(error)


@pytest.mark.parametrize(
    ("base", "url"),
    [
        ("http://prometheus:9090", "http://prometheus:9090/api/v1/query"),
        ("http://prometheus:9090/", "http://prometheus:9090/api/v1/query"),
        ("https://mimir.example/prometheus/", "https://mimir.example/prometheus/api/v1/query"),
        ("http://thanos?partial_response=false", "http://thanos/api/v1/query?partial_response=false"),
        ("http://[::1]:9090", "http://[::1]:9090/api/v1/query"),
    ],
)
def test_the_api_is_below_the_configured_url(base: str, url: str) -> None:
    assert str(query_url(base)) == url


@pytest.mark.parametrize(
    "url",
    ["", "prometheus", "prometheus:9090", "ftp://prometheus", "http://", "http://user:secret@prometheus", "http://[::"],
)
def test_what_is_no_url_of_prometheus_is_refused_in_one_line(url: str) -> None:
    with pytest.raises(ValueError, match="URL") as caught:
        query_url(url)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


async def test_parameters_of_the_configured_url_are_sent_along(fake: FakePrometheus) -> None:
    await ask(f"{fake.url}/thanos?partial_response=false")
    assert fake.requests[0].path == "/thanos/api/v1/query"
    assert dict(fake.requests[0].query) == {"partial_response": "false", "query": QUERY}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["status", "data", "resultType", "result", "metric", "value", "volume_id", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.binary(max_size=200) | json_values.map(msgspec.json.encode))
@settings(max_examples=60)
def test_no_body_whatever_does_more_than_fail(body: bytes) -> None:
    async def outcome() -> Sequence[Sample] | PrometheusError:
        async with FakePrometheus(raw(body)) as fake:
            try:
                return await ask(fake.url)
            except PrometheusError as error:
                return error

    answer = asyncio.run(outcome())
    if isinstance(answer, PrometheusError):
        assert "\n" not in str(answer)
    else:
        assert all(isinstance(sample, Sample) for sample in answer)
