"""What the server refuses, and in which words: every error has OpenAI's form and names its field."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("uvicorn")
openai = pytest.importorskip("openai")

from tests.support.fake_engine import fake_language_model  # noqa: E402
from tests.support.server import Running, serving  # noqa: E402

CHAT = {"messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture(scope="module")
def server():
    with serving(fake_language_model(), max_new_tokens=40, max_body=4000) as running:
        yield running


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("temperature", -1, "temperature is -1.0, expected a number of at least 0"),
        ("temperature", "hot", "temperature is 'hot', expected int or float"),
        ("top_p", 0, "top_p is 0.0, expected a number in (0, 1]"),
        ("max_tokens", 0, "max_tokens is 0, expected at least 1"),
        ("max_tokens", 41, "max_tokens is 41, this server allows 40"),
        ("max_completion_tokens", 41, "max_completion_tokens is 41, this server allows 40"),
        ("n", 129, "n is 129, expected 1 to 128"),
        ("n", 100, "100 texts at once, this server takes 80"),
        ("stop", ["a", ""], "stop is not up to 16 strings, none empty"),
        ("seed", 1.5, "seed is 1.5, expected int"),
        ("stream", "yes", "stream is 'yes', expected bool"),
        ("presence_penalty", 0.5, "presence_penalty is not supported: use repetition_penalty"),
        ("logit_bias", {"5": 1}, "logit_bias is not supported"),
        ("tools", [{"type": "function"}], "tools is not supported"),
        ("top_logprobs", 3, "top_logprobs is not supported"),
        ("response_format", {"type": "xml"}, "response_format.type is 'xml'"),
        ("response_format", {"type": "json_schema"}, "json_schema.schema is missing"),
        ("temprature", 1, "Unrecognized request argument: temprature"),
    ],
)  # fmt: skip
def test_a_field_that_does_not_fit_is_named(server, field, value, message):
    status, error = server.error("/v1/chat/completions", {**CHAT, field: value})
    assert status == 400 and error["type"] == "invalid_request_error"
    assert message in error["message"] and error["param"] == field


@pytest.mark.parametrize(
    ("messages", "message", "param"),
    [
        ([], "messages is missing or empty", "messages"),
        ("hi", "messages is 'hi', expected list", "messages"),
        (["hi"], "messages[0] is 'hi', expected an object", "messages[0]"),
        ([{"role": "user"}], "messages[0].content is None", "messages[0].content"),
        ([{"role": "cat", "content": "x"}], "messages[0].role is 'cat'", "messages"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "text only", "messages[0].content"),
    ],
)  # fmt: skip
def test_messages_that_do_not_fit_are_named(server, messages, message, param):
    status, error = server.error("/v1/chat/completions", {"messages": messages})
    assert status == 400 and message in error["message"] and error["param"] == param


def test_a_prompt_beyond_the_context_is_refused_by_its_length(server):
    status, error = server.error("/v1/completions", {"prompt": "x" * 64})
    assert status == 400 and error["code"] == "context_length_exceeded"
    assert "context is 64 tokens, and the prompt has 64" in error["message"]
    assert error["param"] == "prompt"
    status, error = server.error(
        "/v1/chat/completions", {"messages": [{"role": "user", "content": "x" * 99}]}
    )
    assert status == 400 and error["param"] == "messages"
    status, error = server.error("/v1/completions", {"prompt": "x" * 65})
    assert status == 400 and error["code"] == "context_length_exceeded"


def test_prompts_that_do_not_fit_are_named(server):
    assert (
        "expected ids from 0 to 256"
        in server.error("/v1/completions", {"prompt": [1, 300]})[1]["message"]
    )
    assert (
        "expected text or token ids"
        in server.error("/v1/completions", {"prompt": [{}]})[1]["message"]
    )
    assert server.error("/v1/completions", {"prompt": []})[0] == 400
    status, error = server.error("/v1/completions", {"prompt": "a", "logprobs": 2})
    assert status == 400 and error["param"] == "logprobs"


def test_too_many_prompts_and_best_of_are_named(server):
    status, error = server.error("/v1/completions", {"prompt": ["a"] * 81})
    assert status == 400 and error["param"] == "prompt" and "81 texts at once" in error["message"]
    body = {"prompt": "a", "best_of": 1, "n": None, "max_tokens": 1}
    assert server.send("/v1/completions", body)[0] == 200
    status, error = server.error("/v1/completions", {**body, "n": 2})
    assert status == 400 and error["param"] == "best_of"


def test_options_of_streams_that_are_not_known_are_named(server):
    body = {**CHAT, "stream": True, "stream_options": {"usage": True}}
    status, error = server.error("/v1/chat/completions", body)
    assert status == 400 and error["param"] == "usage"


def test_fields_that_change_nothing_are_taken(server):
    extra = {
        "stream_options": {"include_obfuscation": False},
        "presence_penalty": 0,
        "tools": [],
        "user": "me",
        "logit_bias": {},
        "stop": None,
    }
    assert server.send("/v1/chat/completions", {**CHAT, **extra})[0] == 200


def test_bodies_that_are_no_json_object_are_refused(server):
    for body, message in ((b"{", "not valid JSON"), (b"[1]", "expected an object")):
        status, error = server.error("/v1/completions", body)
        assert status == 400 and message in error["message"]
    status, error = server.error("/v1/completions", b"{}", Content_Type="text/plain")
    assert status == 400 and "expected application/json" in error["message"]
    status, error = server.error("/v1/completions", b"[" * 3000)
    assert status == 400 and "not valid JSON" in error["message"]


def test_a_body_that_is_too_long_is_413(server):
    status, error = server.error("/v1/completions", {"prompt": "x" * 5000})
    assert status == 413 and error["code"] == "request_too_large"


def test_a_body_of_unknown_length_is_read_no_further_than_allowed(server):
    import http.client

    connection = http.client.HTTPConnection(server.address.removeprefix("http://"), timeout=30)
    parts = (b"x" * 1000 for _ in range(20))
    connection.request(
        "POST", "/v1/completions", parts, {"Content-Type": "application/json"},
        encode_chunked=True,
    )  # fmt: skip
    assert connection.getresponse().status == 413
    connection.close()


def test_unknown_paths_methods_and_models_are_404_and_405(server):
    assert server.error("/v1/nothing", None)[0] == 404
    assert server.error("/v1/completions", None)[0] == 405
    status, error = server.error("/v1/completions", {"model": "gpt-9", "prompt": "x"})
    assert status == 404 and error["code"] == "model_not_found" and error["param"] == "model"
    with pytest.raises(openai.NotFoundError, match="does not exist here"):
        server.client().models.retrieve("gpt-9")
    status, error = server.error("/v1/embeddings", {"input": "x"})
    assert status == 501 and "--embedding-model" in error["message"]


def test_a_key_is_wanted_for_all_but_the_page_and_health():
    with serving(fake_language_model(), api_key="secret") as server:
        assert server.client("secret").models.list().data[0].id == "fake"
        with pytest.raises(openai.AuthenticationError) as caught:
            server.client("wrong").models.list()
        assert caught.value.code == "invalid_api_key"
        assert server.error("/v1/completions", {"prompt": "x"})[0] == 401
        assert server.send("/metrics")[0] == 401
        assert server.send("/")[0] == server.send("/health")[0] == 200


def test_a_server_on_loopback_answers_to_its_own_names_alone(server: Running):
    assert server.send("/health", Host="rebound.example")[0] == 400
    assert server.send("/health", Host="localhost:1")[0] == 200
    with serving(fake_language_model(), hosts=("proxy.example",)) as other:
        assert other.send("/health", Host="proxy.example")[0] == 200


def test_a_server_on_ipv6_answers_to_its_address():
    import socket

    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("there is no IPv6 here")
    with serving(fake_language_model(), host="::1") as server:
        assert server.address.startswith("http://[::1]:") and server.send("/health")[0] == 200


def test_the_page_runs_no_script_but_its_own(server):
    status, headers, body = server.send("/")
    policy = {k.lower(): v for k, v in headers.items()}["content-security-policy"]
    assert status == 200 and b"fusedlm chat" in body
    assert "default-src 'none'" in policy and "unsafe-inline" not in policy
    assert b"http://" not in body and b"https://" not in body


def test_a_cancellation_that_fails_loses_its_requests_and_not_the_server():
    from tests.support.fake_engine import FakeGenerator, Gate

    gate = Gate()

    class Broken(FakeGenerator):
        def cancel(self, request: int) -> None:
            raise ValueError("no")

    generators = iter([Broken(before_step=gate), FakeGenerator()])
    with serving(fake_language_model(lambda: next(generators)), timeout=0.5) as server:
        assert server.error("/v1/completions", {"prompt": "x"})[1]["code"] == "timeout"
        gate.open()
        assert server.client().completions.create(model="fake", prompt="x").choices[0].text
        assert server.send("/health")[0] == 200


def test_offsets_of_tokens_are_those_of_the_text():
    from tests.support.fake_engine import FakeGenerator

    euros = "a€uro".encode()
    model = fake_language_model(lambda: FakeGenerator(next_token=lambda _, at: euros[at]))
    with serving(model) as server:
        body = {"prompt": "x", "logprobs": 0, "max_tokens": len(euros)}
        choice = json.loads(server.send("/v1/completions", body)[2])["choices"][0]
    assert choice["text"] == "a€uro" and choice["logprobs"]["text_offset"] == [0, 1, 1, 1, 2, 3, 4]


def test_a_step_that_fails_loses_its_requests_and_not_the_server():
    from tests.support.fake_engine import FakeGenerator

    broken = [True]

    def maybe() -> None:
        if broken[0]:
            raise ValueError("no")

    with serving(fake_language_model(lambda: FakeGenerator(before_step=maybe))) as server:
        status, error = server.error("/v1/completions", {"prompt": "x"})
        assert status == 503 and error["code"] == "engine_failed"
        assert "no" not in json.dumps(error).split()
        broken[0] = False
        assert server.client().completions.create(model="fake", prompt="x").choices[0].text
