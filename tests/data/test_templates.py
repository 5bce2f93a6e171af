"""Rendering: as transformers does, but under a clock that stands still."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from colab_magics.data.templates import Renderer, TemplateRefuses, chat_template_of, ensure_chat_template

NOW = datetime(2025, 3, 4, 5, 6)
CHAT = [
    {"role": "system", "content": "Be <brief> & kind."},
    {"role": "user", "content": "Where is “Rome”?"},
    {"role": "assistant", "content": "<think>\nMaps.\n</think>\n\nIn Italy."},
    {"role": "user", "content": "And Paris?\n"},
    {"role": "assistant", "content": " In France. "},
]
TOOLS = [{"type": "function", "function": {"name": "f", "description": "ü", "parameters": {"type": "object"}}}]


def test_every_template_renders_as_transformers_renders_it(
    known_templates: dict[str, str], gpt2: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = gpt2()
    compared = 0
    for name, template in known_templates.items():
        if "strftime_now" in template:
            continue  # transformers tells today's date there
        tokenizer.chat_template = template
        renderer = Renderer(template, tokenizer.special_tokens_map, NOW)
        for messages, prompt, tools in ((CHAT, False, None), (CHAT[1:], False, TOOLS), (CHAT[1:4], True, None)):
            try:
                theirs = tokenizer.apply_chat_template(
                    messages, tokenize=False, add_generation_prompt=prompt, tools=tools
                )
            except Exception:
                with pytest.raises(TemplateRefuses):
                    renderer.render(messages, prompt=prompt, tools=tools)
                continue
            assert renderer.render(messages, prompt=prompt, tools=tools) == theirs, name
            compared += 1
    assert compared > 120


def test_the_date_in_a_template_is_that_of_the_runs_first_attempt(shared_data: Path) -> None:
    template = (shared_data / "chat_templates" / "meta-llama-Llama-3.2-3B-Instruct.jinja").read_text()
    renderer = Renderer(template, {"bos_token": "<s>"}, NOW)
    assert renderer.tells_time
    assert "Today Date: 04 Mar 2025" in renderer.render(CHAT[1:3])


def test_a_template_cannot_reach_out_of_its_sandbox() -> None:
    renderer = Renderer("{{ messages.__class__.__mro__[1].__subclasses__() }}", {}, NOW)
    with pytest.raises(TemplateRefuses):
        renderer.render(CHAT)


def test_a_refusal_keeps_the_templates_own_words() -> None:
    renderer = Renderer("{{ raise_exception('System role not supported') }}", {}, NOW)
    with pytest.raises(TemplateRefuses, match="System role not supported"):
        renderer.render(CHAT)


def test_generation_markers_are_measured_where_they_stand() -> None:
    template = (
        "{% for m in messages %}[{{ m.role }}]{% if m.role == 'assistant' %}"
        "{% generation %}{{ m.content | trim }};{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}"
    )
    text, spans = Renderer(template, {}, NOW).render_marked(CHAT[1:])
    assert [text[start:end] for start, end in spans] == ["<think>\nMaps.\n</think>\n\nIn Italy.;", "In France.;"]


def test_reasoning_is_found_under_whichever_name_the_template_reads() -> None:
    renderer = Renderer("{{ messages[0].reasoning_content }}", {}, NOW)
    assert renderer.render([{"role": "assistant", "content": "", "thinking": "Because."}]) == "Because."


def test_a_tokenizer_without_a_template_gets_the_plain_one_for_inference_too(gpt2: Callable[[], Any]) -> None:
    tokenizer = gpt2()
    assert chat_template_of(tokenizer) is None
    assert "plain one" in str(ensure_chat_template(tokenizer))
    assert ensure_chat_template(tokenizer) is None
    prompt = tokenizer.apply_chat_template(CHAT[1:2], tokenize=False, add_generation_prompt=True)
    assert prompt == "### User:\nWhere is “Rome”?\n\n### Assistant:\n"


def test_a_tokenizer_with_a_template_keeps_it(phi3: Callable[[], Any]) -> None:
    tokenizer = phi3()
    before = tokenizer.chat_template
    assert ensure_chat_template(tokenizer) is None
    assert tokenizer.chat_template == before


def test_of_several_templates_the_default_is_taken(gpt2: Callable[[], Any]) -> None:
    tokenizer = gpt2()
    tokenizer.chat_template = {"tool_use": "T", "default": "D"}
    assert chat_template_of(tokenizer) == "D"
