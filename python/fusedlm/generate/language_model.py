"""A model, its tokenizer and its chat template on the engine: text in, text out."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from fusedlm import _core
from fusedlm.models.weights import INDEX, refuse_pickles

from .batch import Batch, Job, Options
from .constrain import Constrainer, Constraint
from .generate import check_prompt
from .sampling import Sampling, row_seeds
from .shared import SharedBatch
from .vocabulary import Vocabulary

Prompt = str | Sequence[int]
Messages = Sequence[Mapping[str, Any]]
_SAMPLING = tuple(Sampling.__dataclass_fields__)


@dataclass(frozen=True)
class Generation:
    """A finished text. finish: "stop" (the model's end or a stop string), "length" or "cancelled".

    log_probs are those of the tokens among what the filters kept (0 at temperature 0).
    """

    text: str
    tokens: list[int]
    log_probs: list[float]
    finish: str
    prompt_tokens: int


class LanguageModel:
    """Generates and chats. Calls from several threads share steps, and none changes another's text.

    Options of every call, all by name:
      max_new_tokens 256; temperature 1.0 (0 is greedy), top_k, top_p, min_p, repetition_penalty: see
      `Sampling`; seed: for the same text again; stop: strings that end the text and are left out;
      schema (a JSON schema, or True for any object), regex or grammar (Lark): what the text must
      be; guess_tokens: check so many tokens a step that repeat what was said (the same text,
      sooner); ignore_eos: go on after the model's end; slide: where the context is full, go on from
      its last half.
    ValueError names what does not fit.
    """

    def __init__(
        self, model: Any, vocabulary: Vocabulary, *, name: str = "model", dtype: str = "bfloat16",
        cache_tokens: int | None = None, most_running: int = 16,
        make_generator: Callable[[], Any] | None = None,
    ) -> None:  # fmt: skip
        """`model` is a `_core.Model`; make_generator replaces the engine, for tests."""
        self.name = name
        self.model = model
        self.vocabulary = vocabulary
        self.context: int = model.config["context"]
        self.vocab_size: int = model.config["vocab_size"]
        self.end_ids = tuple(
            dict.fromkeys([*model.config["eos_ids"], *vocabulary.tokenizer.end_ids])
        )
        if vocabulary.tokenizer.vocab_size > self.vocab_size:
            raise ValueError(
                f"LanguageModel: the tokenizer has {vocabulary.tokenizer.vocab_size} tokens, the "
                f"model's vocab_size is {self.vocab_size}"
            )

        def engine() -> Any:
            return _core.Generator(
                _core.Engine(model, dtype=dtype, cache_tokens=cache_tokens or 0),
                most_running=most_running,
            )

        self._make_generator = make_generator or engine
        self.restart()
        self._constrainer: Constrainer | None = None
        self._constrainer_lock = threading.Lock()

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, format: str | None = None, dtype: str | None = None,
        cache_tokens: int | None = None, most_running: int = 16,
    ) -> LanguageModel:  # fmt: skip
        """A fusedlm or Hugging Face folder, or a .gguf file.

        format: what the weights become ("int8", "q8_0", "q4_0", "bfloat16", ...), by default they
        stay as the file has them. dtype: bfloat16 (the default) or float32 for activations and the
        cache. cache_tokens: room for so many tokens over all texts. Raises FileNotFoundError,
        CorruptFileError naming the file, NotImplementedError for a kind of model that is not known and
        for pickled weights.
        """
        path = Path(path)
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist; expected a model folder or .gguf file")
        if path.is_dir() and not (path / INDEX).is_file():
            refuse_pickles(path)
        model = _core.Model.load(str(path), format=format)
        vocabulary = Vocabulary.load(path, model.config["vocab_size"])
        name = path.absolute().name if path.is_dir() else path.stem
        return cls(
            model, vocabulary, name=name, dtype=dtype or "bfloat16",
            cache_tokens=cache_tokens, most_running=most_running,
        )  # fmt: skip

    def restart(self) -> None:
        """Drops all requests and the cache."""
        self.batch = Batch(self._make_generator(), self.context, self.vocabulary.tokenizer)
        self._shared = SharedBatch(self.batch)

    # Text

    def generate(
        self, prompt: Prompt | Sequence[Prompt], *,
        on_token: Callable[[int, int], bool | None] | None = None, **options: Any,
    ) -> Generation | list[Generation]:  # fmt: skip
        """Continues a prompt (text, or token ids), or several at once: then a list.

        Prompt number b draws with seed + b. on_token(b, token) is called for each token as it
        comes; a true result ends that text.
        """
        single = isinstance(prompt, str) or (len(prompt) > 0 and isinstance(prompt[0], int))
        prompts = cast("list[Prompt]", [prompt] if single else list(prompt))
        ids = [self.encode(p, f"prompt {row}") for row, p in enumerate(prompts)]
        jobs = self._submit(ids, options)
        try:
            for row, token in self._tokens(jobs):
                if on_token is not None and on_token(row, token):
                    self._shared.cancel([jobs[row]])
        finally:
            self._shared.cancel(jobs)
        results = [
            Generation(job.text, job.tokens, job.log_probs, job.finish or "", len(job.prompt))
            for job in jobs
        ]
        return results[0] if single else results

    def stream(self, prompt: Prompt, **options: Any) -> Iterator[str]:
        """The continuation in pieces, as they come; joined it equals the text of `generate`."""
        ids, checked = self.encode(prompt), self.options(**options)
        return self._pieces(ids, checked)

    def chat(self, messages: Messages, **options: Any) -> Generation:
        """The answer to messages, each {"role": "system" | "user" | "assistant", "content": text}."""
        answer = self.generate(self.encode_chat(messages), **options)
        assert not isinstance(answer, list)  # one prompt, one answer
        return answer

    def stream_chat(self, messages: Messages, **options: Any) -> Iterator[str]:
        """The answer in pieces, as they come."""
        return self.stream(self.encode_chat(messages), **options)

    # Tokens

    def encode(self, prompt: Prompt, name: str = "prompt") -> list[int]:
        """Token ids of a prompt, checked. An empty text starts from the token that begins texts."""
        if isinstance(prompt, str):
            ids = self.vocabulary.tokenizer.encode(prompt, add_special=True)
            ids = ids or self._beginning(name)
        else:
            ids = list(prompt)
        check_prompt(ids, name, self.context, self.vocab_size)
        return ids

    def encode_chat(self, messages: Messages) -> list[int]:
        """Token ids of a conversation, up to where the answer begins."""
        if self.vocabulary.template is None:
            raise ValueError(f"chat: {self.name} has no chat template; use generate instead")
        ids = self.vocabulary.tokenizer.encode(self.vocabulary.template.render(messages))
        check_prompt(ids, "the conversation", self.context, self.vocab_size)
        return ids

    def options(
        self, *, max_new_tokens: int = 256, seed: int | None = None,
        stop: str | Sequence[str] | None = None, schema: Any = None, regex: str | None = None,
        grammar: str | None = None, guess_tokens: int = 0, ignore_eos: bool = False,
        slide: bool = False, **sampling: Any,
    ) -> Options:  # fmt: skip
        """The options of a call, checked."""
        unknown = sorted(set(sampling) - set(_SAMPLING))
        if unknown:
            raise TypeError(f"generate: unknown argument {unknown[0]!r}")
        constraint = self._constraint(schema, regex, grammar)
        if constraint is not None and (ignore_eos or slide):
            name = "ignore_eos" if ignore_eos else "slide"
            raise ValueError(f"generate: {name} does not go with schema, regex or grammar")
        return Options(
            max_new_tokens=max_new_tokens, sampling=Sampling(**sampling), seed=row_seeds(seed, 1)[0],
            stop=() if stop is None else stop, stop_ids=() if ignore_eos else self.end_ids,
            ignore_eos=ignore_eos, guess_tokens=guess_tokens, constraint=constraint, slide=slide,
        )  # fmt: skip

    def _constraint(self, schema: Any, regex: str | None, grammar: str | None) -> Constraint | None:
        if schema is None and regex is None and grammar is None:
            return None
        with self._constrainer_lock:
            if self._constrainer is None:
                self._constrainer = Constrainer(
                    self.vocabulary.tokenizer.to_json(), self.vocab_size, self.end_ids
                )
        return self._constrainer.make(schema=schema, regex=regex, grammar=grammar)

    def _beginning(self, name: str) -> list[int]:
        bos = self.vocabulary.tokenizer.special.get("bos_token")
        first = [self.vocabulary.tokenizer.token_id(bos)] if bos else []
        ids = [i for i in [*first, *self.end_ids] if i is not None]
        if not ids:
            raise ValueError(f"generate: {name} is empty, and the model has no token to begin with")
        return ids[:1]

    # Running

    def _submit(self, prompts: list[list[int]], options: dict[str, Any]) -> list[Job]:
        first = self.options(**options)
        each = [replace(first, seed=first.seed + row) for row in range(len(prompts))]
        return self._shared.submit(prompts, each)

    def _pieces(self, ids: list[int], options: Options) -> Iterator[str]:
        jobs = self._shared.submit([ids], [options])
        try:
            finish = None
            while finish is None:
                (piece,) = self._shared.wait(jobs)
                finish = piece.finish
                if piece.text:
                    yield piece.text
        finally:
            self._shared.cancel(jobs)

    def _tokens(self, jobs: list[Job]) -> Iterator[tuple[int, int]]:
        while True:
            pieces = self._shared.wait(jobs)
            for row, piece in enumerate(pieces):
                for token in piece.tokens:
                    if jobs[row].finish != "cancelled":
                        yield row, token
            if all(piece.finish is not None for piece in pieces):
                return
