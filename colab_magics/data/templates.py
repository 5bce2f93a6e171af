"""Chat templates: rendered in a sandbox, under a clock that stands still, and a plain one for models without any."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

# What a model without a chat template is given, for training and for inference alike. An instruction is introduced
# by "### User:", the answer by "### Assistant:", and the answer ends with the tokenizer's end-of-text token.
PLAIN_TEMPLATE = (
    "{%- for message in messages %}"
    "{%- if message.role == 'system' %}{{ message.content + '\\n\\n' }}"
    "{%- elif message.role == 'assistant' %}{{ '### Assistant:\\n' + message.content + eos_token + '\\n\\n' }}"
    "{%- else %}{{ '### User:\\n' + message.content + '\\n\\n' }}"
    "{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '### Assistant:\\n' }}{%- endif %}"
)
# Where the tokenizer itself starts every text with such a token.
_BEGIN = "{{- bos_token }}"

# The several names under which models keep the reasoning of a turn; a template reads one of them.
REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking")


class TemplateRefuses(ValueError):
    """The chat template itself refused the messages, in its own words."""


def chat_template_of(tokenizer: Any) -> str | None:
    """The template of `tokenizer` for plain chats; None if it has none."""
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, dict):
        template = template.get("default") or next(iter(template.values()), None)
    return template or None


def ensure_chat_template(tokenizer: Any) -> str | None:
    """Give `tokenizer` the plain template if it has none, so that training and inference say the same.

    Returns
    -------
    str or None
        What was done, one sentence; None if the tokenizer has a template of its own.
    """
    if chat_template_of(tokenizer) is not None:
        return None
    tokenizer.chat_template = (_BEGIN if starts_with_bos(tokenizer) else "") + PLAIN_TEMPLATE
    return "the tokenizer has no chat template: it got the plain one (### User: … ### Assistant: …)"


def starts_with_bos(tokenizer: Any) -> bool:
    """Whether the tokenizer by itself puts its begin-of-text token before a text."""
    bos = getattr(tokenizer, "bos_token_id", None)
    return bos is not None and list(tokenizer("a")["input_ids"])[:1] == [bos]


class Renderer:
    """Messages to text, by one chat template.

    Renders as `tokenizer.apply_chat_template(..., tokenize=False)` does (a test holds the two against each other on
    every template at hand), except that the clock is fixed: transformers 5.23 turns a function that is passed to a
    template into text, so its own renderer can only ever print today's date.

    Parameters
    ----------
    template : str
    special_tokens : mapping
        `bos_token`, `eos_token`, ...: what the template may print.
    now : datetime
        The time that `strftime_now` tells.
    """

    def __init__(self, template: str, special_tokens: Mapping[str, Any], now: datetime) -> None:
        self.template = template
        self._variables = dict(special_tokens)
        self._now = now
        self._compiled, self._tracker = _compile(template)
        self.has_markers = re.search(r"\{%-?\s*generation\s*[-+]?%\}", template) is not None
        self.tells_time = "strftime_now" in template

    def render(
        self, messages: Sequence[Mapping[str, Any]], *, prompt: bool = False, tools: list[Any] | None = None
    ) -> str:
        """The text of `messages`; with `prompt`, what generation would start from.

        Raises
        ------
        TemplateRefuses
            The template raised, for whatever reason: the row does not fit it.
        """
        text, _ = self.render_marked(messages, prompt=prompt, tools=tools)
        return text

    def render_marked(
        self, messages: Sequence[Mapping[str, Any]], *, prompt: bool = False, tools: list[Any] | None = None
    ) -> tuple[str, list[tuple[int, int]]]:
        """The text, and the [start, end) of each part that stands in the template's generation markers."""
        import jinja2

        said = [_under_every_name(message) for message in messages]
        spans: list[tuple[int, int]] = []
        parts: list[str] = []
        self._tracker.begin(parts, spans)
        try:
            pieces = self._compiled.generate(
                messages=said,
                tools=tools,
                documents=None,
                add_generation_prompt=prompt,
                strftime_now=self._now.strftime,
                **self._variables,
            )
            # One piece at a time: the markers measure what came before them.
            for piece in pieces:
                parts.append(piece)
        except (jinja2.TemplateError, TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
            raise TemplateRefuses(str(error) or type(error).__name__) from error
        return "".join(parts), spans


def _under_every_name(message: Mapping[str, Any]) -> dict[str, Any]:
    reasoning = next((message[field] for field in REASONING_FIELDS if message.get(field) is not None), None)
    return dict(message) if reasoning is None else {**dict.fromkeys(REASONING_FIELDS, reasoning), **message}


class _Tracker:
    """Where the generation blocks of the rendering under way begin and end."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.spans: list[tuple[int, int]] = []

    def begin(self, parts: list[str], spans: list[tuple[int, int]]) -> None:
        self.parts, self.spans = parts, spans

    def note(self, text: str) -> None:
        start = sum(map(len, self.parts))
        self.spans.append((start, start + len(text)))


@lru_cache(maxsize=8)
def _compile(template: str) -> tuple[Any, _Tracker]:
    """The compiled template and its tracker. The sandbox: a template is code from whoever made the model."""
    import jinja2
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    tracker = _Tracker()

    class GenerationMarkers(Extension):  # type: ignore[misc]
        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return jinja2.nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

        def _mark(self, caller: Any) -> str:
            text = str(caller())
            tracker.note(text)
            return text

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    def tojson(value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, **rest: Any) -> str:
        # Not Jinja's own filter, which escapes HTML.
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, **rest)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationMarkers, loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    return environment.from_string(template), tracker
