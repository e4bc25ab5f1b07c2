"""The real openai client against a server on the real engine, with a tiny model of random weights."""

from __future__ import annotations

import base64
import json
import struct
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("uvicorn")
openai = pytest.importorskip("openai")

from fusedlm.generate import LanguageModel  # noqa: E402
from tests.support.server import serving  # noqa: E402
from tests.support.tiny import save_tiny_model  # noqa: E402

MESSAGES = [{"role": "user", "content": "the quick"}]
PROMPT = "<user>the quick\n<assistant>"


class LetterCounts:
    """A stand-in for an encoder: how often a, b and c come."""

    name = "letters"

    def embed(self, texts):
        if "bad" in texts:
            raise ValueError("text 0 is bad")
        return [[float(text.count(letter)) for letter in "abc"] for text in texts], len(texts)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = save_tiny_model(tmp_path_factory.mktemp("serve") / "tiny")
    return LanguageModel.load(folder, dtype="float32", most_running=8)


@pytest.fixture(scope="module")
def server(model):
    with serving(model, LetterCounts(), max_running=8, max_waiting=100) as running:
        yield running


@pytest.fixture(scope="module")
def client(server):
    return server.client()


def complete(client, prompt: object = "the quick", **options):
    return client.completions.create(
        model="tiny", prompt=prompt, **{"max_tokens": 12, "seed": 7, **options}
    )


def chat(client, **options):
    return client.chat.completions.create(
        model="tiny", messages=MESSAGES, **{"max_tokens": 12, "seed": 7, **options}
    )


def test_completions_are_what_the_library_makes(model, client):
    expected = LanguageModel(model.model, model.vocabulary, dtype="float32").generate(
        "the quick", max_new_tokens=12, seed=7
    )
    answer = complete(client)
    assert answer.choices[0].text == expected.text
    assert answer.choices[0].finish_reason == expected.finish
    assert answer.usage.prompt_tokens == expected.prompt_tokens
    assert answer.usage.completion_tokens == len(expected.tokens)
    assert answer.usage.total_tokens == expected.prompt_tokens + len(expected.tokens)
    assert answer.object == "text_completion" and answer.model == "tiny"


def test_a_chat_is_its_template_continued(client):
    answer = chat(client)
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content == complete(client, PROMPT).choices[0].text
    parts = [{"type": "text", "text": "the "}, {"type": "text", "text": "quick"}]
    same = client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": parts}], max_completion_tokens=12,
        seed=7,
    )  # fmt: skip
    assert same.choices[0].message.content == answer.choices[0].message.content


def test_streams_join_to_the_whole_answer_and_count_tokens(client):
    whole = chat(client)
    chunks = list(chat(client, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == whole.choices[
        0
    ].finish_reason
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage
    assert len({c.id for c in chunks}) == 1
    pieces = [c.choices[0].text for c in complete(client, stream=True)]
    assert "".join(pieces) == complete(client).choices[0].text and len(pieces) > 5


def test_n_choices_draw_with_seeds_of_their_own(client):
    several = chat(client, n=3)
    assert [c.index for c in several.choices] == [0, 1, 2]
    assert [c.message.content for c in several.choices] == [
        chat(client, seed=7 + i).choices[0].message.content for i in range(3)
    ]
    streamed = [""] * 3
    for chunk in chat(client, n=3, stream=True):
        streamed[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert streamed == [c.message.content for c in several.choices]


def test_prompts_may_be_several_and_tokens(model, client):
    ids = model.encode("the quick")
    answer = complete(client, [ids, model.encode("fox")], n=2)
    assert [c.index for c in answer.choices] == [0, 1, 2, 3]
    assert answer.choices[0].text == complete(client, ids).choices[0].text
    assert answer.choices[2].text == complete(client, "fox").choices[0].text
    assert answer.choices[3].text == complete(client, "fox", seed=8).choices[0].text


def test_stop_strings_end_the_text(client):
    whole = complete(client, max_tokens=40).choices[0].text
    stop = whole[8:11]
    answer = complete(client, max_tokens=40, stop=[stop]).choices[0]
    assert answer.text == whole[: whole.index(stop)] and answer.finish_reason == "stop"
    assert complete(client, max_tokens=40, stop=stop).choices[0].text == answer.text


def test_log_probabilities_come_with_their_tokens(client):
    answer = chat(client, logprobs=True)
    content = answer.choices[0].logprobs.content
    assert len(content) == answer.usage.completion_tokens
    assert all(entry.logprob <= 0 for entry in content)
    streamed = [
        entry
        for chunk in chat(client, logprobs=True, stream=True)
        for entry in (chunk.choices[0].logprobs.content if chunk.choices[0].logprobs else [])
    ]
    assert streamed == content
    plain = complete(client, logprobs=0).choices[0].logprobs
    assert len(plain.tokens) == len(plain.token_logprobs) == len(plain.text_offset)


def test_answers_follow_a_schema(client):
    pytest.importorskip("llguidance")
    jsonschema = pytest.importorskip("jsonschema")
    schema = {
        "type": "object", "required": ["name", "age"], "additionalProperties": False,
        "properties": {
            "name": {"type": "string", "maxLength": 6}, "age": {"type": "integer", "minimum": 0, "maximum": 99},
        },
    }  # fmt: skip
    wanted = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema}}
    for seed in range(3):
        answer = chat(client, response_format=wanted, max_tokens=150, seed=seed)
        jsonschema.validate(json.loads(answer.choices[0].message.content), schema)
    answer = chat(client, extra_body={"regex": "(yes|no)"}, max_tokens=20)
    assert answer.choices[0].message.content in ("yes", "no")
    with pytest.raises(openai.BadRequestError, match="schema does not fit") as caught:
        bad = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "cat"}}}
        chat(client, response_format=bad)
    assert caught.value.param == "response_format"


def test_models_say_what_they_can(client):
    models = {m.id: m for m in client.models.list()}
    assert set(models) == {"tiny", "letters"}
    assert models["tiny"].chat is True and models["tiny"].context == 256
    assert client.models.retrieve("letters").embeddings is True


def test_embeddings_are_those_of_the_encoder(client, server):
    answer = client.embeddings.create(model="letters", input=["abba", "cab"])
    assert [d.embedding for d in answer.data] == [[2, 2, 0], [1, 1, 1]]
    assert answer.usage.total_tokens == 2
    _, _, body = server.send("/v1/embeddings", {"input": "abba", "encoding_format": "base64"})
    packed = base64.b64decode(json.loads(body)["data"][0]["embedding"])
    assert struct.unpack("<3f", packed) == (2, 2, 0)
    for wrong, message in (
        ({"input": []}, "input is not 1 to"), ({"input": [""]}, "empty text"),
        ({"input": "bad"}, "text 0 is bad"), ({"input": "a", "model": "x"}, "does not exist"),
        ({"input": "a", "dimensions": 2}, "Unrecognized request argument: dimensions"),
    ):  # fmt: skip
        assert message in server.error("/v1/embeddings", wrong)[1]["message"]


def test_metrics_count_requests_and_tokens(client, server):
    before = server.metric("fusedlm_new_tokens_total")
    requests = {"endpoint": "completions", "status": "200"}
    answered = server.metric("fusedlm_requests_total", **requests)
    complete(client, max_tokens=9, extra_body={"repetition_penalty": 1.1})
    assert server.metric("fusedlm_new_tokens_total") == before + 9
    assert server.metric("fusedlm_requests_total", **requests) == answered + 1
    assert server.metric("fusedlm_requests_in_flight") == 0
    assert server.metric("fusedlm_first_token_seconds_count") > 0


def test_32_clients_at_once_get_what_each_would_get_alone(server):
    """None is lost, and nobody's text depends on who else was there."""
    client = server.client()

    def ask(number: int) -> str:
        options = {"seed": number, "max_tokens": 8 + number % 23, "temperature": 0.9}
        if number % 3 == 0:
            text = "".join(
                c.choices[0].text for c in complete(client, "fox", stream=True, **options)
            )
        elif number % 3 == 1:
            text = complete(client, "the lazy dog jumps over" * (1 + number % 5), **options)
            text = text.choices[0].text
        else:
            text = chat(client, **options).choices[0].message.content
        return text

    numbers = range(32 * 3)
    with ThreadPoolExecutor(32) as pool:
        together = list(pool.map(ask, numbers))
    assert together[:32] == [ask(number) for number in numbers[:32]]
    assert len(together) == 96 and server.service.admission.in_flight == 0
