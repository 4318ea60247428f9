"""Providers behind litellm: what it loses is put back, its own ways are off, and failures say what happened.

Each scripted body is in the provider's own wire, and the installed litellm translates it.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import threading

import httpx
import pytest

from proxy.answers import RefusalForm, is_filter_error, read_choices
from proxy.dependencies import build_dependencies
from proxy.errors import UpstreamConnectTimedOut, UpstreamTimedOut, UpstreamUnreachable
from proxy.server import listen, url_of
from proxy.settings import Settings
from proxy.wires.chat import CHAT

# litellm and the SDKs that it uses leave pools, tasks and deprecated calls behind, none of them ours to mend.
pytestmark = pytest.mark.filterwarnings("ignore")

STOP_DETAILS = {"type": "refusal", "category": "cyber", "explanation": "because"}
AZURE_FILTER = {
    "message": "The response was filtered due to the prompt triggering Azure OpenAI's content management policy.",
    "type": None,
    "param": "prompt",
    "code": "content_filter",
    "status": 400,
    "innererror": {"code": "ResponsibleAIPolicyViolation", "content_filter_result": {"hate": {"filtered": True}}},
}


def anthropic(text="Hi.", reason="end_turn", **more):
    usage = {"input_tokens": 3, "output_tokens": 5}
    content = [{"type": "text", "text": text}]
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m-1", "stop_sequence": None}
    return {**message, "content": content, "stop_reason": reason, "usage": usage, **more}


def openai(message, reason="stop"):
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": reason}
    head = {"id": "c-1", "object": "chat.completion", "created": 1, "model": "m-1"}
    return {**head, "choices": [choice], "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}}


def gemini(text="Hi.", reason="STOP"):
    candidate = {"content": {"role": "model", "parts": [{"text": text}]}, "finishReason": reason, "index": 0}
    usage = {"promptTokenCount": 3, "candidatesTokenCount": 1, "totalTokenCount": 4}
    return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "m-1"}


async def test_an_answer_is_translated_both_ways(provider, ask):
    provider.body = anthropic("Use kill -9.")
    status, body = await ask("anthropic", model_prefix="claude-").whole("How do I kill a process?", max_tokens=7)
    assert status == 200
    assert body["object"] == "chat.completion"
    assert body["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Use kill -9.", "refusal": None},
            "finish_reason": "stop",
            "native_finish_reason": "end_turn",
        }
    ]
    assert body["usage"]["total_tokens"] == 8
    assert provider.paths == ["/v1/messages"]
    assert (provider.requests[0]["model"], provider.requests[0]["max_tokens"]) == ("claude-m-1", 7)
    assert provider.seen_headers[0]["x-api-key"] == "client-key"


async def test_a_tool_call_is_translated(provider, ask):
    call = {"type": "tool_use", "id": "t-1", "name": "look", "input": {"at": "sky"}}
    provider.body = anthropic(reason="tool_use", content=[call])
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
    _, body = await ask("anthropic").whole(tools=[tool])
    called = body["choices"][0]["message"]["tool_calls"][0]
    assert (called["id"], called["function"]["name"]) == ("t-1", "look")
    assert json.loads(called["function"]["arguments"]) == {"at": "sky"}
    assert body["choices"][0]["finish_reason"] == "tool_calls"


# ---- what litellm loses


async def test_a_moved_refusal_is_put_back(provider, ask):
    provider.body = openai({"content": None, "refusal": "I cannot."})
    _, body = await ask("azure").whole()
    assert body["choices"][0]["message"] == {"role": "assistant", "content": None, "refusal": "I cannot."}
    assert read_choices(json.dumps(body).encode(), CHAT.gather({}))[0].form is RefusalForm.TYPED


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", ["openai", "azure"])
async def test_a_filter_that_answers_400_is_told_apart(provider, ask, name, stream):
    provider.status, provider.body = 400, {"error": AZURE_FILTER}
    status, body = await ask(name).whole(stream=stream)
    assert status == 400
    assert is_filter_error(json.dumps(body).encode())
    assert body["error"]["message"] == AZURE_FILTER["message"]
    assert body["error"]["innererror"] == AZURE_FILTER["innererror"]
    provider.body = {"error": {"message": "too long", "type": "invalid_request_error", "param": None, "code": "x"}}
    status, body = await ask(name).whole(stream=stream)
    assert (status, is_filter_error(json.dumps(body).encode())) == (400, False)


async def test_why_anthropic_stopped_is_kept(provider, ask):
    provider.body = anthropic("I won't.", "refusal", stop_details=STOP_DETAILS)
    _, body = await ask("anthropic").whole()
    choice = body["choices"][0]
    assert (choice["finish_reason"], choice["native_finish_reason"]) == ("content_filter", "refusal")
    assert choice["stop_details"] == STOP_DETAILS
    assert read_choices(json.dumps(body).encode(), CHAT.gather({}))[0].form is RefusalForm.FILTER


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("native", "reason"),
    [
        ("SAFETY", "content_filter"),
        ("PROHIBITED_CONTENT", "content_filter"),
        ("OTHER", "stop"),
        ("LANGUAGE", "stop"),
        ("MAX_TOKENS", "length"),
    ],
)
async def test_unlike_ends_of_gemini_stay_apart(provider, ask, stream, native, reason):
    provider.body = gemini("Par", native)
    provider.events = [provider.body]
    asked = ask("gemini")
    choice = (await asked.chunks())[-1]["choices"][0] if stream else (await asked.whole())[1]["choices"][0]
    assert (choice["finish_reason"], choice["native_finish_reason"]) == (reason, native)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_blocked_prompt_is_a_filters_work_whatever_its_reason(provider, ask, stream):
    blocked = {"promptFeedback": {"blockReason": "OTHER"}, "usageMetadata": gemini()["usageMetadata"]}
    provider.body, provider.events = blocked, [blocked]
    asked = ask("gemini")
    choice = (await asked.chunks())[-1]["choices"][0] if stream else (await asked.whole())[1]["choices"][0]
    assert (choice["finish_reason"], choice["native_finish_reason"]) == ("content_filter", "BLOCKED_OTHER")


async def test_a_guardrail_of_bedrock_is_a_filter(provider, ask, monkeypatch):
    for name, value in (("ACCESS_KEY_ID", "a"), ("SECRET_ACCESS_KEY", "s"), ("REGION", "eu-west-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    message = {"role": "assistant", "content": [{"text": "Blocked."}]}
    usage = {"inputTokens": 1, "outputTokens": 1, "totalTokens": 2}
    provider.body = {"output": {"message": message}, "stopReason": "guardrail_intervened", "usage": usage}
    status, body = await ask("bedrock").whole(model="converse/anthropic.claude-3-haiku-20240307-v1:0")
    choice = body["choices"][0]
    assert (status, choice["message"]["content"]) == (200, "Blocked.")
    assert (choice["finish_reason"], choice["native_finish_reason"]) == ("content_filter", "guardrail_intervened")
    assert "client-key" not in provider.seen_headers[0]["authorization"], "a client's key must not sign"


# ---- errors and limits


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("name", "status", "body", "message", "kind"),
    [
        ("anthropic", 429, {"type": "error", "error": {"type": "rate_limit_error", "message": "slow"}}, "slow", None),
        ("anthropic", 529, {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}, "busy", None),
        ("gemini", 404, {"error": {"code": 404, "message": "no m-1", "status": "NOT_FOUND"}}, "no m-1", None),
        ("gemini", 503, {"error": {"code": 503, "message": "later", "status": "UNAVAILABLE"}}, "later", "server_error"),
        ("azure", 401, {"error": {"code": "401", "message": "wrong key"}}, "wrong key", "authentication_error"),
        ("azure", 500, b"<html>no json</html>", None, "server_error"),
    ],
)
async def test_a_providers_error_keeps_its_status_and_its_words(
    provider, ask, name, status, body, message, kind, stream
):
    provider.status, provider.body, provider.headers = status, body, {"retry-after": "7", "x-secret": "1"}
    response = await ask(name).send(stream=stream)
    error = json.loads(await response.next_chunk())["error"]
    await response.close()
    assert response.status == status
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"] == message if message else error["message"]
    assert error["type"] == kind if kind else error["type"].endswith("_error")
    assert response.headers["retry-after"] == "7"
    assert "x-secret" not in response.headers
    assert len(provider.requests) == 1, "litellm and the SDKs must not retry"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", ["anthropic", "azure", "gemini"])
async def test_a_provider_that_is_not_there(ask, name, stream):
    with listen("127.0.0.1", 0) as nobody:
        asked = ask(name, provider_url=url_of(nobody))
        with pytest.raises(UpstreamUnreachable, match=url_of(nobody)):
            await asked.send(stream=stream)
    code = {"code": "upstream_unreachable"}
    assert asked.metrics.registry.get_sample_value("rass_upstream_errors_total", code) == 1


class NoConnection(httpx.AsyncBaseTransport):
    """Keeps the limits that it was asked with, and gives up in the time for the connection."""

    async def handle_async_request(self, request):
        self.limits = request.extensions["timeout"]
        raise httpx.ConnectTimeout("")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", ["anthropic", "azure", "gemini", "openai"])
async def test_only_the_connection_has_a_limit_in_litellm(ask, name, stream):
    asked = ask(name, connect_timeout_s=3, first_byte_timeout_s=1)
    asked.upstream._shared = shared = NoConnection()
    with pytest.raises(UpstreamConnectTimedOut, match=r"within 3 s \(upstream.connect_timeout_s\)"):
        await asked.send(stream=stream)
    assert shared.limits == {"connect": 3, "read": None, "write": None, "pool": None}


@pytest.mark.parametrize("name", ["anthropic", "azure"])
async def test_a_late_answer_and_its_cancelled_work(provider, ask, name):
    provider.body = anthropic() if name == "anthropic" else openai({"content": "Hi."})
    await ask(name).whole()  # what litellm loads for its first request must not use up the time of the next
    provider.hold = asyncio.Event()
    with pytest.raises(UpstreamTimedOut, match=r"upstream\.total_timeout_s"):
        await ask(name, total_timeout_s=1).send()
    async with asyncio.timeout(30):
        await provider.cancelled.wait()


# ---- what a client may ask


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"api_base": "http://elsewhere"}, "unsupported_field", "api_base"),
        ({"mock_response": "hi"}, "unsupported_field", "mock_response"),
        ({"fallbacks": ["x"]}, "unsupported_field", "fallbacks"),
        ({"extra_headers": {"x": "y"}}, "unsupported_field", "extra_headers"),
        ({"model": "../../elsewhere"}, "invalid_model", "model"),
        ({"model": "a/../b"}, "invalid_model", "model"),
        ({"messages": "hi"}, "invalid_messages", "messages"),
        ({"stream": "yes"}, "invalid_value", "stream"),
        ({"stream": True, "n": 2}, "unsupported_value", "n"),
    ],
)
async def test_nothing_but_the_request_reaches_litellm(provider, ask, fields, code, param):
    status, body = await ask("anthropic").whole(**fields)
    assert (status, body["error"]["code"], body["error"]["param"]) == (400, code, param)
    assert provider.requests == []


async def test_what_the_provider_does_not_know_is_refused_not_dropped(provider, ask):
    status, body = await ask("anthropic").whole(logit_bias={"1": 1})
    assert (status, body["error"]["code"]) == (400, "untranslatable_request")
    assert "logit_bias" in body["error"]["message"]
    assert provider.requests == []


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "messages", [[{"role": 5, "content": "SECRET"}], ["SECRET"], [{"role": "user", "content": 5, "name": "SECRET"}]]
)
async def test_what_litellm_stumbles_over_is_the_clients_to_mend(provider, ask, messages, stream):
    status, body = await ask("gemini").whole(messages=messages, stream=stream)
    assert (status, body["error"]["code"]) == (400, "untranslatable_request")
    assert not {"SECRET", "Traceback", "litellm", ".py"} & set(re.findall(r"[\w.]+", body["error"]["message"]))
    assert provider.requests == []


@pytest.mark.parametrize(
    ("name", "model"), [("bedrock", "anthropic.claude-3-haiku-20240307-v1:0"), ("vertex_ai", "gemini-1")]
)
async def test_missing_credentials_are_not_the_clients_to_mend(ask, monkeypatch, tmp_path, name, model):
    for variable in [each for each in os.environ if each.startswith(("AWS_", "GOOGLE_", "VERTEX"))]:
        monkeypatch.delenv(variable)
    # No credentials anywhere, and nothing that is asked for them over the network.
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none"))
    with monkeypatch.context() as installed:
        installed.setattr("proxy.upstream.litellm_library.importlib.util.find_spec", lambda name: name)
        asked = ask(name)
    with pytest.raises(UpstreamUnreachable, match="credentials") as caught:
        await asked.whole(model=model)
    assert str(tmp_path) not in caught.value.message


async def test_no_key_is_taken_from_the_environment(provider, ask, monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", "the-operators")
    status, body = await ask("anthropic").whole(key=None)
    assert (status, body["error"]["code"]) == (401, "missing_api_key")
    assert provider.requests == []


async def test_the_settings_key_replaces_the_clients(provider, ask):
    provider.body = anthropic()
    await ask("anthropic", api_key="the-operators").whole()
    assert provider.seen_headers[0]["x-api-key"] == "the-operators"


async def test_litellm_is_imported_beside_the_event_loop(ask, monkeypatch):
    ask("gemini")  # or skip, where it is not installed
    from proxy.upstream import litellm_library

    threads = []
    imported = litellm_library._imported

    def recorded():
        threads.append(threading.current_thread())
        return imported()

    monkeypatch.setattr(litellm_library, "_imported", recorded)
    await (await build_dependencies(Settings(upstream={"kind": "litellm", "provider": "gemini"}))).close()
    assert threads[0] is not threading.main_thread()


async def test_models_and_other_paths(ask):
    upstream = ask("anthropic", models=["a", "b"]).upstream
    body = json.loads(await (await upstream.send("GET", "/v1/models", headers={}, purpose="check")).next_chunk())
    assert [entry["id"] for entry in body["data"]] == ["a", "b"]
    assert (await upstream.send("GET", "/v1/models/b", headers={}, purpose="client")).status == 200
    assert (await upstream.send("GET", "/v1/models/c", headers={}, purpose="client")).status == 404
    assert (await upstream.send("POST", "/v1/embeddings", headers={}, purpose="client")).status == 404
