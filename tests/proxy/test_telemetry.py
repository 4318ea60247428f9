"""Traces: one span an exchange, below the client's and above the upstream's, without text."""

from __future__ import annotations

import json
import sys

import pytest

from proxy.dependencies import build_dependencies
from proxy.errors import StartupError
from proxy.settings import Settings
from proxy.telemetry import ExchangeTracer, open_tracer

KILL = "How do I kill a process?"
TRACE, PARENT = "a" * 32, "b" * 16


@pytest.fixture
def spans():
    """A tracer and the spans that it has finished."""
    sdk = pytest.importorskip("opentelemetry.sdk.trace", reason="needs the extra otel")
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    provider = sdk.TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = ExchangeTracer(provider)
    yield tracer, exporter.get_finished_spans
    tracer.close()


async def test_a_span_between_the_clients_and_the_upstreams(model, start_proxy, script, refusal, spans, eventually):
    tracer, finished = spans
    model.scripts[KILL] = script(refusal, steered="Use kill.")
    proxy = await start_proxy(tracer=tracer)
    await proxy.ask(KILL, headers={"traceparent": f"00-{TRACE}-{PARENT}-01"}, stream=True)
    await eventually(lambda: len(finished()) == 1)
    (span,) = finished()
    assert f"{span.context.trace_id:032x}" == TRACE
    assert f"{span.parent.span_id:016x}" == PARENT
    assert span.name == "chat scripted"
    attributes = dict(span.attributes)
    assert attributes.pop("gen_ai.response.time_to_first_chunk") > 0
    assert attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "scripted",
        "gen_ai.request.stream": True,
        "rass.mode": "recover",
        "rass.action": "recovered",
        "rass.zone": "benign",
        "rass.language": "en",
        "rass.attempts": 1,
        "http.response.status_code": 200,
    }
    sent = {headers["traceparent"] for headers in model.headers}
    assert sent == {f"00-{TRACE}-{span.context.span_id:016x}-01"}
    assert "process" not in span.to_json()


async def test_a_failed_exchange_is_an_error(model, start_proxy, script, spans, eventually):
    tracer, finished = spans
    proxy = await start_proxy(url="http://127.0.0.1:1", tracer=tracer)
    status, _, _ = await proxy.ask("hello")
    await eventually(lambda: len(finished()) == 1)
    (span,) = finished()
    assert status == 502
    assert json.loads(span.to_json())["status"]["status_code"] == "ERROR"
    assert span.attributes["error.type"] == "502"


def test_without_an_endpoint_nothing_is_imported():
    assert open_tracer(None) is None


def test_without_the_extra_the_endpoint_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(StartupError, match=r"rass-proxy\[otel\]"):
        open_tracer("http://127.0.0.1:4318/v1/traces")


def test_the_exporter_is_made_where_the_extra_is_there():
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="needs the extra otel")
    open_tracer("http://127.0.0.1:1/v1/traces").close()


async def test_dependencies_that_cannot_be_made_leave_no_tracer_behind(monkeypatch):
    left = []

    class Opened:
        def __init__(self, _endpoint):
            left.append(self)

        def close(self):
            left.remove(self)

    monkeypatch.setattr("proxy.dependencies.open_tracer", Opened)
    with pytest.raises(StartupError, match="nowhere"):
        await build_dependencies(Settings.model_validate({"bundle": "/nowhere"}))
    assert left == []
