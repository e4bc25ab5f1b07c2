"""Chat templates: how a model wants the messages of a conversation written as one text.

A template comes with the model, so it runs in jinja2's sandbox and sees plain data only. What it may
use is what Hugging Face transformers gives it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

ROLES = ("system", "developer", "user", "assistant", "tool")


class _Generation(Extension):
    """{% generation %} ... {% endgeneration %} marks what the model said; the text is the same without."""

    tags = {"generation"}  # noqa: RUF012, as jinja2 has it

    def parse(self, parser: Parser) -> list[Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class ChatTemplate:
    """A compiled template; `special` are the tokens it may name (bos_token, eos_token, ...)."""

    def __init__(self, source: str, special: Mapping[str, str] | None = None) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = lambda layout: datetime.now().strftime(layout)
        self.source = source
        self._special = dict(special or {})
        try:
            self._template = environment.from_string(source)
        except (jinja2.TemplateError, RecursionError, SyntaxError) as error:
            raise ValueError(f"chat template: {error}") from error

    def render(
        self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True
    ) -> str:
        """The text of the messages, by default with the beginning of the answer.

        A message has a role and a content (a string). Raises ValueError naming the message that
        does not fit, or with what the template says of it.
        """
        plain = [_checked(index, message) for index, message in enumerate(messages)]
        if not plain:
            raise ValueError("chat: messages is empty, expected at least one")
        try:
            return self._template.render(
                messages=plain, add_generation_prompt=add_generation_prompt, **self._special
            )
        except (jinja2.TemplateError, TypeError, ArithmeticError, RecursionError) as error:
            raise ValueError(
                f"chat: the model's template refuses these messages: {error}"
            ) from error


def _checked(index: int, message: Any) -> dict[str, str]:
    if not isinstance(message, Mapping):
        raise ValueError(f"chat: messages[{index}] is {message!r}, expected role and content")
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise ValueError(
            f"chat: messages[{index}].role is {role!r}, expected one of {', '.join(ROLES)}"
        )
    if not isinstance(content, str):
        raise ValueError(f"chat: messages[{index}].content is {content!r}, expected a string")
    # A developer's instructions are what older templates know as the system message.
    return {"role": "system" if role == "developer" else role, "content": content}


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: int | None = None,
    separators: tuple[str, str] | None = None, sort_keys: bool = False,
) -> str:  # fmt: skip
    # jinja2's own filter escapes HTML, which is not wanted in a prompt.
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
