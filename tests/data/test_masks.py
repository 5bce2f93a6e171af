"""What is trained: the assistant's words and the end of their turn, whatever the chat template does."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from colab_magics.data.masks import LOCATED, MARKERS, PER_TURN, PREFIX, Chat, EndOfTurn, Masked, mask_chat
from colab_magics.data.templates import PLAIN_TEMPLATE, Renderer

NOW = datetime(2025, 3, 4)
SPECIAL = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}
# What the tokenizers of these models hold as single tokens.
_TOKEN = re.compile(
    r"<\|[^|\s>]+\|>|<[^<>\s|/]*(?:turn|eos|bos)[^<>\s]*>|</s>|<｜[^｜]+｜>|<turn\|>|<\|END_OF_TURN_TOKEN\|>"
)


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


def system(text: str) -> dict[str, Any]:
    return {"role": "system", "content": text}


def chat(*messages: dict[str, Any]) -> Chat:
    turns = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    return Chat(list(messages), tuple(turn for turn in turns if messages[turn].get("weight") != 0))


def mask(template: str, conversation: Chat, *tokens: str) -> list[Masked]:
    names = sorted({*_TOKEN.findall(template), "<eos>", "<|END_OF_TURN_TOKEN|>", *tokens}, key=len, reverse=True)
    ends = EndOfTurn(re.compile("|".join(map(re.escape, names))), "<eos>")
    return mask_chat(conversation, Renderer(template, SPECIAL, NOW), ends)


def trained(masked: Masked) -> list[str]:
    return [masked.text[start:end] for start, end in masked.spans]


SINGLE = chat(user("Where is Rome?"), assistant("In Italy."))
MULTI = chat(user("What is 2+2?"), assistant("Four."), user("And 3+3?"), assistant("Six."))
THINKING = chat(
    user("First?"),
    assistant("<think>\nReason one.\n</think>\n\nAnswer one."),
    user("Second?"),
    assistant("<think>\nReason two.\n</think>\n\nAnswer two."),
)

# --- templates written here, each with one thing that breaks a simpler way ------------------------------------------

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MARKED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}"
    "{% else %}{{ m.content }}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Only the last answer keeps its reasoning, and only the last gets an empty one if it has none.
FORGETS_REASONING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' %}{% set answer = m.content.split('</think>')[-1].lstrip('\\n') %}"
    "{% if loop.last %}<think>\n{% if '</think>' in m.content %}"
    "{{ m.content.split('</think>')[0].replace('<think>', '').strip('\\n') }}{% endif %}"
    "{{ '\\n</think>\\n\\n' }}{% endif %}"
    "{{ answer }}{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PROMPT_OPENS_THINKING = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content.split('</think>')[-1] }}"
    "{% if m.role == 'assistant' %}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}"
)
NEVER_ENDS_A_TURN = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
ENDS_THE_CHAT = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)
# Shouts every answer but the last: no content can be found in the whole rendering.
SHOUTS = (
    "{% for m in messages %}<|{{ m.role }}|>"
    "{% if m.role == 'assistant' and not loop.last %}{{ m.content | upper }}{% else %}{{ m.content }}{% endif %}"
    "<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.mark.parametrize(
    ("template", "conversation", "method", "parts"),
    [
        (CHATML, MULTI, PREFIX, ["Four.<|im_end|>", "Six.<|im_end|>"]),
        (MARKED, MULTI, MARKERS, ["Four.<|im_end|>", "Six.<|im_end|>"]),
        (FORGETS_REASONING, SINGLE, PREFIX, ["<think>\n\n</think>\n\nIn Italy.<|im_end|>"]),
        (FORGETS_REASONING, MULTI, LOCATED, ["Four.<|im_end|>", "<think>\n\n</think>\n\nSix.<|im_end|>"]),
        (
            FORGETS_REASONING,
            THINKING,
            LOCATED,
            ["Answer one.<|im_end|>", "<think>\nReason two.\n</think>\n\nAnswer two.<|im_end|>"],
        ),
        (PROMPT_OPENS_THINKING, MULTI, LOCATED, ["Four.<|end|>", "Six.<|end|>"]),
        (NEVER_ENDS_A_TURN, MULTI, PREFIX, ["Four.<|user|>", "Six.<eos>"]),
        (ENDS_THE_CHAT, SINGLE, PREFIX, ["In Italy.<|end|>"]),
        (ENDS_THE_CHAT, MULTI, LOCATED, ["Four.<|end|>", "Six.<|end|>"]),
    ],
)
def test_exactly_the_answers_and_their_end_of_turn_are_trained(
    template: str, conversation: Chat, method: str, parts: list[str]
) -> None:
    [masked] = mask(template, conversation, "<|user|>", "<|assistant|>")
    assert masked.method == method
    assert trained(masked) == parts


def test_a_template_that_changes_earlier_answers_gives_one_sample_a_turn() -> None:
    first, second = mask(SHOUTS, MULTI)
    assert (first.method, second.method) == (PER_TURN, PER_TURN)
    assert trained(first) == ["Four.<|end|>"]
    assert trained(second) == ["Six.<|end|>"]
    assert "FOUR." in second.text


def test_a_response_that_the_template_swallows_masks_nothing() -> None:
    assert mask("{% for m in messages %}<|{{ m.role }}|>{% endfor %}", SINGLE) == []


def test_the_plain_template_trains_the_answer_and_the_end_of_text() -> None:
    [masked] = mask(PLAIN_TEMPLATE, chat(system("Be brief."), *MULTI.messages))
    assert trained(masked) == ["Four.<eos>", "Six.<eos>"]
    assert masked.text.startswith("Be brief.\n\n### User:\nWhat is 2+2?\n\n### Assistant:\nFour.<eos>\n\n### User:\n")


def test_a_turn_of_weight_zero_is_context() -> None:
    conversation = chat(user("a?"), assistant("Untrained.", weight=0), user("b?"), assistant("Trained."))
    for template in (CHATML, MARKED, FORGETS_REASONING):
        [masked] = mask(template, conversation)
        assert "Untrained." in masked.text
        assert not any("Untrained." in part for part in trained(masked))
        assert trained(masked)[0].endswith("Trained.<|im_end|>")


def test_markers_that_leave_out_the_end_of_turn_still_train_it() -> None:
    [masked] = mask(MARKED, SINGLE)
    assert trained(masked) == ["In Italy.<|im_end|>"]


def test_nothing_after_the_last_trained_part_is_kept() -> None:
    [masked] = mask(CHATML, SINGLE)
    assert masked.text.endswith("In Italy.<|im_end|>")


@pytest.mark.parametrize("answer", ["end", "assistant", "user", "|>", "<|", "1", "im_end", "a\n\nb", "Where is Rome?"])
@pytest.mark.parametrize("template", [CHATML, FORGETS_REASONING, ENDS_THE_CHAT, PROMPT_OPENS_THINKING, PLAIN_TEMPLATE])
def test_an_answer_that_also_stands_elsewhere_is_found_where_it_is(template: str, answer: str) -> None:
    conversation = chat(user("Where is Rome?"), assistant(answer), user(f"{answer}?"), assistant(answer))
    [masked] = mask(template, conversation)
    opened = "<think>\n\n</think>\n\n" if template is FORGETS_REASONING else ""
    for number, part in enumerate(trained(masked)):
        end = _TOKEN.search(part, part.index(answer) + len(answer))
        assert end is not None, part
        assert part == (opened if number else "") + answer + end[0]
    # all that is not trained holds the first question, once
    rest = masked.text[: masked.spans[0][0]]
    assert rest.count("Where is Rome?") == 1


words = st.text(st.characters(codec="utf-8", exclude_characters="\r\x85\u2028\u2029"), min_size=1, max_size=40)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(words, words).filter(lambda pair: all(text.strip() for text in pair)), min_size=1, max_size=3),
    st.sampled_from([CHATML, MARKED, FORGETS_REASONING, ENDS_THE_CHAT, PROMPT_OPENS_THINKING, PLAIN_TEMPLATE]),
)
def test_any_words_are_trained_whole_and_no_question_is(turns: list[tuple[str, str]], template: str) -> None:
    if any(mark in text for pair in turns for text in pair for mark in ("think>", "@7f3")):
        return
    messages = [message for asked, said in turns for message in (user(asked), assistant(said))]
    [masked] = mask(template, chat(*messages))
    parts = trained(masked)
    assert len(parts) == len(turns)
    for part, (_, said) in zip(parts, turns, strict=True):
        assert said.strip() in part
        bare = part.replace("<think>\n\n</think>\n\n", "", 1).removesuffix("<|im_end|>").removesuffix("<|end|>")
        assert bare.removesuffix("<eos>").strip() == said.strip()


# --- the models' own templates --------------------------------------------------------------------------------------

THOUGHT = "<think>\nReason two.\n</think>\n\nAnswer two."


@pytest.mark.parametrize(
    ("name", "conversation", "parts"),
    [
        ("qwen3", SINGLE, ["<think>\n\n</think>\n\nIn Italy.<|im_end|>"]),
        ("qwen3", MULTI, ["Four.<|im_end|>", "<think>\n\n</think>\n\nSix.<|im_end|>"]),
        ("qwen3", THINKING, ["Answer one.<|im_end|>", f"{THOUGHT}<|im_end|>"]),
        ("qwen3_instruct_2507", MULTI, ["Four.<|im_end|>", "Six.<|im_end|>"]),
        ("qwen2_5", MULTI, ["Four.<|im_end|>", "Six.<|im_end|>"]),
        ("qwen3_5_think", MULTI, ["Four.<|im_end|>", "\n</think>\n\nSix.<|im_end|>"]),
        ("llama3", MULTI, ["Four.<|eot_id|>", "Six.<|eot_id|>"]),
        ("llama3_1", MULTI, ["Four.<|eot_id|>", "Six.<|eot_id|>"]),
        ("llama3_2", MULTI, ["Four.<|eot_id|>", "Six.<|eot_id|>"]),
        ("phi3", MULTI, ["Four.<|end|>", "Six.<|end|>"]),
        ("phi3_5", MULTI, ["Four.<|end|>", "Six.<|end|>"]),
        ("gemma", MULTI, ["Four.<end_of_turn>", "Six.<end_of_turn>"]),
        ("gemma3", MULTI, ["Four.<end_of_turn>", "Six.<end_of_turn>"]),
        ("gemma4", MULTI, ["Four.<turn|>", "Six.<turn|>"]),
        ("deepseekv3", MULTI, ["Four.<｜end▁of▁sentence｜>", "Six.<｜end▁of▁sentence｜>"]),
        ("deepseek_r1_distill", THINKING, ["Answer one.<｜end▁of▁sentence｜>", "Answer two.<｜end▁of▁sentence｜>"]),
        ("glm4moe", MULTI, ["\n<think></think>\nFour.<|user|>", "\n<think></think>\nSix.<eos>"]),
        (
            "gptoss",
            MULTI,
            ["<|channel|>final<|message|>Four.<|end|>", "<|channel|>final<|message|>Six.<|return|>"],
        ),
        ("cohere", MULTI, ["Four.<|END_OF_TURN_TOKEN|>", "Six.<|END_OF_TURN_TOKEN|>"]),
        ("cohere2", SINGLE, ["In Italy.<|END_RESPONSE|><|END_OF_TURN_TOKEN|>"]),
        ("lfm2", MULTI, ["Four.<|im_end|>", "Six.<|im_end|>"]),
        ("lfm2_2_5", THINKING, ["Answer one.<|im_end|>", f"{THOUGHT}<|im_end|>"]),
        ("nemotron_3_nano", THINKING, ["Answer one.<|im_end|>", "Reason two.\n</think>\n\nAnswer two.<|im_end|>"]),
    ],
)
def test_the_templates_of_known_models_train_what_follows_the_generation_prompt(
    known_templates: dict[str, str], name: str, conversation: Chat, parts: list[str]
) -> None:
    [masked] = mask(known_templates[name], conversation)
    assert trained(masked) == parts


# Their own string contents are not taken (they want lists of parts, images among them).
_SEE_IMAGES = {"idefics3", "smolvlm", "llava_next"}


def test_every_template_agrees_with_its_marked_twin_or_is_stricter(known_templates: dict[str, str]) -> None:
    """TRL's hand-made training templates are the judge: never more is trained than there, header and space aside."""
    judged = 0
    for name, template in known_templates.items():
        twin = known_templates.get(f"{name}_training")
        if twin is None or name in _SEE_IMAGES:
            continue
        for conversation in (SINGLE, MULTI):
            marked = Renderer(twin, SPECIAL, NOW)
            text, spans = marked.render_marked(conversation.messages)
            if text != Renderer(template, SPECIAL, NOW).render(conversation.messages):
                continue  # the twin renders earlier turns in its own way
            [masked] = mask(template, conversation)
            start = masked.spans[0][0]
            theirs = "".join(text[a:b] for a, b in spans).replace("<eos>", "").split()
            ours = "".join(trained(masked)).replace("<eos>", "").split()
            assert "".join(ours) in "".join(theirs) or len(spans) > 1, (name, ours, theirs)
            inside = {position for a, b in spans for position in range(a, b)}
            for a, b in masked.spans:
                assert set(range(a, min(b, len(text)))) <= inside, (name, masked.text[a:b])
            assert start > 0
            judged += 1
    assert judged >= 30


@pytest.mark.parametrize("file", ["Qwen-Qwen2.5-7B-Instruct.jinja", "meta-llama-Llama-3.2-3B-Instruct.jinja"])
def test_shipped_templates_of_several_turns_train_the_answers(shared_data: Any, file: str) -> None:
    template = (shared_data / "chat_templates" / file).read_text(encoding="utf-8")
    [masked] = mask(template, MULTI)
    end = "<|im_end|>" if "Qwen" in file else "<|eot_id|>"
    assert trained(masked) == [f"Four.{end}", f"Six.{end}"]


def test_a_tool_call_is_trained_with_its_turn_and_the_tools_answer_is_not(known_templates: dict[str, str]) -> None:
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Rome"}}}
    conversation = chat(
        user("Weather in Rome?"),
        assistant("", tool_calls=[call]),
        {"role": "tool", "content": "Sunny."},
        assistant("It is sunny."),
    )
    for name in ("qwen2_5", "qwen3", "llama3_1"):
        parts = [part for masked in mask(known_templates[name], conversation) for part in trained(masked)]
        assert len(parts) == 2, name
        assert "weather" in parts[0], name
        assert "Rome" in parts[0], name
        assert "It is sunny." in parts[1], name
        assert not any("Sunny." in part for part in parts), name


def test_a_template_that_prints_no_tool_calls_teaches_no_empty_answer() -> None:
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Rome"}}}
    conversation = chat(
        user("Weather in Rome?"), assistant("", tool_calls=[call]), user("And now?"), assistant("It is sunny.")
    )
    parts = [part for masked in mask(CHATML, conversation) for part in trained(masked)]
    assert parts == ["It is sunny.<|im_end|>"]
    assert mask(CHATML, chat(user("Weather in Rome?"), assistant("", tool_calls=[call]))) == []
