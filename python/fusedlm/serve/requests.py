"""From the JSON of a request to what the engine takes; errors name the field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from fusedlm.generate import LanguageModel, Options
from fusedlm.models.fields import is_number

from .errors import ApiError, invalid, unsupported
from .settings import Settings

# Sent by clients about themselves, or asking for what holds anyway.
_IGNORED = {
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key",
    "prompt_cache_retention", "parallel_tool_calls", "verbosity", "prediction",
}  # fmt: skip
# Fields that are taken where they ask for nothing.
_REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "presence_penalty": ((0,), "use repetition_penalty"),
    "frequency_penalty": ((0,), "use repetition_penalty"),
    "logit_bias": (({},), "tokens cannot be weighed by hand"),
    "tools": (([],), "models here call no tools; response_format constrains the answer"),
    "tool_choice": (("none", "auto"), "models here call no tools"),
    "functions": (([],), "models here call no functions"),
    "function_call": (("none", "auto"), "models here call no functions"),
    "modalities": ((["text"],), "the output is text"),
    "audio": ((), "the output is text"),
    "reasoning_effort": ((), "the model's template decides"),
    "web_search_options": ((), "there is no web search"),
    "echo": ((False,), "the client has the prompt"),
    "suffix": (("",), "text is continued, not filled in"),
}
# What errors of the library begin with where one of these does not fit.
_OPTIONS = {
    "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "stop", "seed", "guess_tokens",
    "regex", "grammar",
}  # fmt: skip
_MOST_CHOICES, _MOST_STOPS, _MOST_PROMPTS = 128, 16, 256


@dataclass(frozen=True)
class TextRequest:
    """Prompts and, for each of their `n` choices, how to continue them."""

    prompts: list[list[int]]
    n: int
    options: Options
    stream: bool
    include_usage: bool
    logprobs: bool

    @property
    def texts(self) -> list[tuple[list[int], Options]]:
        """One a choice: those of the first prompt, of the second, ...; each with its own seed."""
        return [
            (prompt, replace(self.options, seed=self.options.seed + choice))
            for prompt in self.prompts
            for choice in range(self.n)
        ]


class Fields:
    """The fields of a body, taken out one by one with a check of their kind."""

    def __init__(self, body: Mapping[str, Any]) -> None:
        self._left = {name: value for name, value in body.items() if value is not None}

    def take(self, name: str, kinds: type | tuple[type, ...], default: Any = None) -> Any:
        if name not in self._left:
            return default
        value = self._left.pop(name)
        kinds = kinds if isinstance(kinds, tuple) else (kinds,)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            wanted = " or ".join(kind.__name__ for kind in kinds)
            raise invalid(f"{name} is {_shown(value)}, expected {wanted}", name, "invalid_type")
        return value

    def integer(self, name: str, least: int, most: int | None = None, default: Any = None) -> Any:
        value = self.take(name, int, default)
        if value is not None and (value < least or (most is not None and value > most)):
            limit = f"at least {least}" if most is None else f"{least} to {most}"
            raise invalid(f"{name} is {value}, expected {limit}", name, "invalid_value")
        return value

    def number(self, name: str, default: float | None = None) -> float | None:
        value = self.take(name, (int, float), default)
        if value is None:
            return None
        if not is_number(value):
            wanted = "a finite number"
            raise invalid(f"{name} is {_shown(value)}, expected {wanted}", name, "invalid_value")
        return float(value)

    def finish(self) -> None:
        """Refuses what is left, unless it changes nothing."""
        for name, value in self._left.items():
            if name in _IGNORED:
                continue
            if name not in _REFUSED:
                raise invalid(f"Unrecognized request argument: {name}", name, "unknown_parameter")
            harmless, why = _REFUSED[name]
            if value not in harmless:
                raise unsupported(name, why)


def read_chat(body: Mapping[str, Any], model: LanguageModel, settings: Settings) -> TextRequest:
    fields = Fields(body)
    fields.take("model", str)
    messages = fields.take("messages", list)
    if not messages:
        raise invalid("messages is missing or empty", "messages", "missing_required_parameter")
    if model.vocabulary.template is None:
        raise invalid(f"{model.name} has no chat template; use /v1/completions", "model")
    plain = [_message(index, message) for index, message in enumerate(messages)]
    prompt = _checked(lambda: model.encode_chat(plain), "messages")
    if fields.integer("top_logprobs", 0, 20, 0):
        raise unsupported("top_logprobs", "only those of the tokens that were drawn are kept")
    logprobs = fields.take("logprobs", bool, False)
    older = fields.integer("max_tokens", 1)
    limit = fields.integer("max_completion_tokens", 1, default=older)
    newer = body.get("max_completion_tokens") is not None
    names = ("messages", "max_completion_tokens" if newer else "max_tokens")
    return _request(fields, [prompt], limit, logprobs, model, settings, names)


def read_completion(
    body: Mapping[str, Any], model: LanguageModel, settings: Settings
) -> TextRequest:
    fields = Fields(body)
    fields.take("model", str)
    given = fields.take("prompt", (str, list), "")
    single = isinstance(given, str) or (len(given) > 0 and type(given[0]) is int)
    prompts = [given] if single else given
    if not 1 <= len(prompts) <= _MOST_PROMPTS:
        raise invalid(f"prompt has {len(prompts)} texts, expected 1 to {_MOST_PROMPTS}", "prompt")
    for prompt in prompts:
        if not isinstance(prompt, (str, list)):
            raise invalid(f"prompt holds {_shown(prompt)}, expected text or token ids", "prompt")
    ids = [_checked(lambda p=prompt: model.encode(p), "prompt") for prompt in prompts]
    logprobs = fields.integer("logprobs", 0, 5)
    if logprobs:
        raise unsupported("logprobs", "only those of the tokens that were drawn are kept: give 0")
    best_of = fields.integer("best_of", 1)
    if best_of is not None and best_of != (1 if body.get("n") is None else body["n"]):
        raise unsupported("best_of", "every choice is returned")
    limit = fields.integer("max_tokens", 1, default=16)
    names = ("prompt", "max_tokens")
    return _request(fields, ids, limit, logprobs is not None, model, settings, names)


def _request(
    fields: Fields, prompts: list[list[int]], limit: int | None, logprobs: bool,
    model: LanguageModel, settings: Settings, names: tuple[str, str],
) -> TextRequest:  # fmt: skip
    """`names` are those of the fields that the prompts and the limit came in."""
    for prompt in prompts:
        if len(prompt) >= model.context:
            raise invalid(
                f"This model's context is {model.context} tokens, and the prompt has "
                f"{len(prompt)}; shorten it",
                names[0],
                "context_length_exceeded",
            )
    room = model.context - min(len(prompt) for prompt in prompts)
    most = settings.max_new_tokens
    if limit is not None and most is not None and limit > most:
        raise invalid(f"{names[1]} is {limit}, this server allows {most}", names[1])
    wanted = min(room, limit or room, most or room)
    n = fields.integer("n", 1, _MOST_CHOICES, 1)
    if n * len(prompts) > settings.capacity:
        raise invalid(
            f"{n * len(prompts)} texts at once, this server takes {settings.capacity}",
            "n" if n > 1 else names[0],
        )
    stream = fields.take("stream", bool, False)
    stream_options = Fields(fields.take("stream_options", dict, {}))
    include_usage = stream_options.take("include_usage", bool)
    stream_options.take("include_obfuscation", bool)  # OpenAI's padding against listeners
    stream_options.finish()
    stop = fields.take("stop", (str, list), [])
    stop = [stop] if isinstance(stop, str) else stop
    if len(stop) > _MOST_STOPS or any(not isinstance(s, str) or not s for s in stop):
        raise invalid(f"stop is not up to {_MOST_STOPS} strings, none empty", "stop")
    seed = fields.integer("seed", -(2**63), 2**63 - 1)
    sampling: dict[str, Any] = {
        "temperature": fields.number("temperature", 1.0),
        "top_p": fields.number("top_p"),
        "top_k": fields.integer("top_k", 0) or None,
        "min_p": fields.number("min_p"),
        "repetition_penalty": fields.number("repetition_penalty", 1.0),
    }
    form = _constraint(fields)
    guess = fields.integer("guess_tokens", 0, 64, 0)
    fields.finish()
    options = _checked(
        lambda: model.options(
            max_new_tokens=wanted, stop=stop, guess_tokens=guess, **sampling, **form,
            seed=None if seed is None else seed % 2**62,
        ),
        None,
    )  # fmt: skip
    return TextRequest(prompts, n, options, stream, bool(include_usage), logprobs)


def _constraint(fields: Fields) -> dict[str, Any]:
    form = {name: fields.take(name, str) for name in ("regex", "grammar")}
    form = {name: text for name, text in form.items() if text is not None}
    wanted = fields.take("response_format", dict, {"type": "text"})
    kind = wanted.get("type")
    if kind == "json_object":
        form["schema"] = True
    elif kind == "json_schema":
        schema = wanted.get("json_schema")
        schema = schema.get("schema") if isinstance(schema, dict) else None
        if not isinstance(schema, dict):
            raise invalid(
                "response_format.json_schema.schema is missing, expected a JSON schema",
                "response_format",
            )
        form["schema"] = schema
    elif kind != "text":
        raise invalid(
            f"response_format.type is {_shown(kind)}, expected text, json_object or json_schema",
            "response_format",
        )
    return form


def _message(index: int, message: Any) -> dict[str, Any]:
    """Role and content as text; what content parts hold of it is joined."""
    param = f"messages[{index}]"
    if not isinstance(message, dict):
        raise invalid(f"{param} is {_shown(message)}, expected an object", param, "invalid_type")
    content = message.get("content")
    if isinstance(content, list):
        texts = [_text_part(part, f"{param}.content") for part in content]
        content = "".join(texts)
    elif content is None and message.get("role") == "assistant":
        content = ""
    elif not isinstance(content, str):
        raise invalid(f"{param}.content is {_shown(content)}, expected text", f"{param}.content")
    return {"role": message.get("role"), "content": content}


def _text_part(part: Any, param: str) -> str:
    text = part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None
    if isinstance(text, str):
        return text
    raise unsupported(param, "messages hold text only")


def _checked(make: Any, param: str | None) -> Any:
    """The library's ValueError as the client's mistake."""
    try:
        return make()
    except ValueError as error:
        message = str(error).removeprefix("generate: ").removeprefix("chat: ")
        field = param
        if param is None:
            first = message.split(" ", 1)[0]
            field = "response_format" if first == "schema" else first if first in _OPTIONS else None
        code = "context_length_exceeded" if "context is" in message else None
        raise invalid(message, field, code) from error
    except NotImplementedError as error:
        raise ApiError(501, str(error), param=param) from error


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
