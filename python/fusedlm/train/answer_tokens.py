"""Conversations as tokens, and which of these tokens are the assistant's answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fusedlm.data.conversations import Conversation
from fusedlm.data.labelled import Skipped
from fusedlm.data.tokenizer import Tokenizer
from fusedlm.generate.vocabulary import Vocabulary

from .length_batches import IGNORED, Sequences

# For a model that brings none: what was said, by whom, and the end token after each answer.
PLAIN_TEMPLATE = (
    "{% for m in messages %}{{ m.role | capitalize }}: {{ m.content }}"
    "{{ eos_token if m.role == 'assistant' }}\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant: {% endif %}"
)


class AnswerTokens:
    """(tokens, targets) of conversations as the model's chat template writes them.

    targets are the next tokens where these are the assistant's, its end token included, and `ignored`
    (the config's ignore_index) elsewhere. A conversation is cut where `LanguageModel.chat` has the model
    begin and end an answer, so that what is trained is what it will be asked for.
    """

    def __init__(self, tokenizer: Tokenizer, context: int, ignored: int = IGNORED) -> None:
        template = Vocabulary.of(tokenizer, Path("tokenizer")).template
        if template is None:
            raise ValueError("the model has no chat template; give the tokenizer one first")
        if not tokenizer.end_ids:
            raise ValueError("the model has no token that ends an answer")
        self._tokenizer, self._template, self._context = tokenizer, template, context
        self._ignored = ignored
        self._ends = [t for t in map(tokenizer.token, tokenizer.end_ids) if t]

    def encode(self, messages: Conversation, *, last: bool = False) -> tuple[list[int], list[int]]:
        """With `last` only the last answer counts.

        Raises ValueError, saying why, where the conversation cannot be trained on.
        """
        if any(end in message["content"] for message in messages for end in self._ends):
            raise ValueError("a message holds the token that ends answers")
        text = self._template.render(messages, add_generation_prompt=False)
        spans = [
            self._span(messages, turn, text)
            for turn, message in enumerate(messages)
            if message["role"] == "assistant"
        ]
        tokens, answered = self._cut(text, [edge for span in spans for edge in span])
        for first, end in answered:
            if not any(token in self._tokenizer.end_ids for token in tokens[first:end]):
                raise ValueError("the chat template ends an answer without an end token")
        if len(tokens) - 1 > self._context:
            raise ValueError(f"more than {self._context} tokens, the context")
        targets = [self._ignored] * len(tokens)
        for first, end in answered[-1:] if last else answered:
            for place in range(first, end):
                targets[place] = tokens[place]
                if tokens[place] in self._tokenizer.end_ids:  # what follows is the template's
                    break
        return tokens[:-1], targets[1:]

    def encode_all(
        self, conversations: Sequence[Conversation], skipped: Skipped, name: str,
        places: Sequence[str] | None = None,
    ) -> Sequences:  # fmt: skip
        """Those that can be trained on; the others are counted, with their `places` where these are given.

        Raises ValueError, which calls all of them `name`, where none is left.
        """
        rows, targets = [], []
        for number, messages in enumerate(conversations):
            try:
                row, target = self.encode(messages)
            except ValueError as error:
                place = f"{name} conversation {number + 1}" if places is None else places[number]
                skipped.add(str(error), place)
                continue
            rows.append(row)
            targets.append(target)
        if not rows:
            raise ValueError("; ".join([f"{name}: no conversation is left", *skipped.lines()]))
        return Sequences(rows, targets)

    def _span(self, messages: Conversation, turn: int, text: str) -> tuple[int, int]:
        """Where an answer and what ends it stand in the text."""
        before = self._template.render(messages[:turn]) if turn else ""
        until = self._template.render(messages[: turn + 1], add_generation_prompt=False)
        if turn == 0:
            raise ValueError("the first message is the assistant's")
        if not (until.startswith(before) and text.startswith(until)):
            raise ValueError("the chat template writes earlier messages anew for later ones")
        return len(before), len(until)

    def _cut(self, text: str, edges: list[int]) -> tuple[list[int], list[tuple[int, int]]]:
        """Tokens of the text, and from where to where the answers between `edges` go in them."""
        tokens = self._tokenizer.encode(text)
        places = []
        for edge in edges:
            head = self._tokenizer.encode(text[:edge])
            if tokens[: len(head)] != head:  # a token reaches over the edge
                return self._piecewise(text, edges)
            places.append(len(head))
        return tokens, list(zip(places[::2], places[1::2], strict=True))

    def _piecewise(self, text: str, edges: list[int]) -> tuple[list[int], list[tuple[int, int]]]:
        tokens: list[int] = []
        places = []
        for begin, end in zip([0, *edges], [*edges, len(text)], strict=True):
            tokens += self._tokenizer.encode(text[begin:end])
            places.append(len(tokens))
        return tokens, list(zip(places[:-1:2], places[1::2], strict=True))


def with_template(tokenizer: Tokenizer, source: str = PLAIN_TEMPLATE) -> Tokenizer:
    """The same tokenizer with a chat template, and the token it calls eos_token."""
    if tokenizer.eos_id is None:
        raise ValueError("the tokenizer has no end-of-text token for answers to end with")
    settings: dict[str, Any] = {"eos_token": tokenizer.token(tokenizer.eos_id)}
    settings |= {**tokenizer.settings, "chat_template": source}
    return Tokenizer(tokenizer._inner, settings, tokenizer.end_ids)
