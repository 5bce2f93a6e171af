"""Texts grow as tokens come; a batch says what each of its prompts says alone; what runs out of memory is halved."""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest

from colab_magics.data.asking import Question
from colab_magics.errors import ColabMagicsError
from colab_magics.inference import decoding
from colab_magics.inference import generate as generating
from colab_magics.inference.decoding import Answers, answer, in_batches
from colab_magics.inference.loaded import open_tokenizer
from colab_magics.inference.sampling import OPTIONS, Sampling
from colab_magics.inference.subject import of_model

pytestmark = pytest.mark.colab
PROMPTS = ["Hello!", "What does len do?", "Explain str.upper.", "Can you tell me what a tuple is?", "What is a list?"]


@pytest.fixture(scope="module")
def model() -> Any:
    from transformers import AutoModelForCausalLM

    from colab_magics import demo

    return AutoModelForCausalLM.from_pretrained(demo.model_path()).eval()


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return open_tokenizer(of_model("demo"))


@pytest.fixture(scope="module")
def questions(tokenizer: Any) -> list[Question]:
    ask = generating.asker_of(of_model("demo"), tokenizer)
    return [ask(prompt) for prompt in PROMPTS]


def ask(
    model: Any, tokenizer: Any, questions: list[Question], batch: int = 8, tell: Any = None, **given: Any
) -> Answers:
    do_sample = bool(given.pop("do_sample", False))
    given.setdefault("max_new_tokens", 24)
    return answer(model, tokenizer, questions, Sampling(given, do_sample), batch=batch, stops=set(), tell=tell)


def test_a_text_grows_and_is_told_before_its_end(
    model: Any, tokenizer: Any, questions: list[Question], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "_BETWEEN", 0.0)
    told: list[tuple[int, str]] = []
    found = ask(model, tokenizer, questions[1:2], tell=lambda place, text: told.append((place, text)))
    texts = [text for _, text in told]
    assert len(texts) > 2
    assert all(later.startswith(earlier) for earlier, later in pairwise(texts))
    assert texts[-1] == found.answers[0].text == "len returns the number of items in a container."
    assert len(texts[0]) < len(texts[-1])


@pytest.mark.parametrize("batch", [2, 5])
def test_a_batch_says_what_each_prompt_says_alone_in_the_given_order(
    model: Any, tokenizer: Any, questions: list[Question], batch: int
) -> None:
    alone = [ask(model, tokenizer, [question]).answers[0] for question in questions]
    assert list(ask(model, tokenizer, questions, batch).answers) == alone
    assert all(one.tokens == len(tokenizer(one.text, add_special_tokens=False)["input_ids"]) for one in alone)


def test_batches_are_of_nearly_one_length_the_longest_first(questions: list[Question]) -> None:
    batches = list(in_batches(questions, 2))
    lengths = [len(questions[number].ids) for part in batches for number in part]
    assert lengths == sorted(lengths, reverse=True)
    assert sorted(number for part in batches for number in part) == list(range(len(questions)))


def test_a_seed_draws_the_same_copies_again_and_leaves_the_notebooks_own_draws_alone(
    model: Any, tokenizer: Any, questions: list[Question]
) -> None:
    import torch

    torch.manual_seed(5)
    state = torch.get_rng_state()
    given = {"temperature": 30.0, "num_return_sequences": 3, "seed": 1}
    first = ask(model, tokenizer, questions[:2], **given)
    assert torch.equal(torch.get_rng_state(), state)
    assert len(first.answers) == 6
    assert len({one.text for one in first.answers[:3]}) > 1
    assert ask(model, tokenizer, questions[:2], **given) == first
    assert ask(model, tokenizer, questions[:2], **given | {"seed": 2}) != first


def test_beams_say_what_transformers_has_them_say(model: Any, tokenizer: Any, questions: list[Question]) -> None:
    import torch

    found = ask(model, tokenizer, questions[1:2], num_beams=3)
    output = model.generate(torch.tensor([questions[1].ids]), num_beams=3, max_new_tokens=24, do_sample=False)
    assert found.answers[0].text == tokenizer.decode(output[0, len(questions[1].ids) :], skip_special_tokens=True)


def test_an_answer_ends_with_the_token_that_closed_it_in_training_whatever_the_config_says(
    model: Any, tokenizer: Any, questions: list[Question]
) -> None:
    stop = tokenizer(" number", add_special_tokens=False)["input_ids"][0]
    found = answer(model, tokenizer, questions[1:2], Sampling({}), batch=1, stops={stop})
    assert found.answers[0].text == "len returns the"


def test_a_token_that_closed_answers_in_training_is_one_more_and_the_models_own_still_ends_them(
    model: Any, tokenizer: Any, questions: list[Question]
) -> None:
    never = tokenizer.convert_tokens_to_ids("<|im_start|>")
    found = answer(model, tokenizer, questions[1:2], Sampling({}), batch=1, stops={never})
    assert found == answer(model, tokenizer, questions[1:2], Sampling({}), batch=1, stops=set())
    assert found.answers[0].end == "end"


def test_every_option_of_a_line_reaches_transformers(model: Any) -> None:
    given = {name: kind(max(low, 3)) for name, (kind, low, high) in OPTIONS.items() if high > 3}
    given |= {"top_p": 0.9, "min_p": 0.05, "typical_p": 0.8}
    assert given.keys() == OPTIONS.keys()
    config = Sampling(given).config(model, new_tokens=2, stops={5}, pad=7)
    expected = {**given, "max_new_tokens": 2, "min_new_tokens": 2, "do_sample": True, "pad_token_id": 7}  # what is left
    del expected["seed"]
    assert {name: getattr(config, name) for name in expected} == expected
    assert 5 in config.eos_token_id


def test_a_model_whose_own_configuration_draws_is_asked_for_the_likeliest(model: Any) -> None:
    own = SimpleNamespace(generation_config=copy.deepcopy(model.generation_config))
    own.generation_config.update(do_sample=True, temperature=0.6, top_k=20, top_p=0.95)
    config = Sampling({}).config(own, new_tokens=2, stops=set(), pad=0)
    assert (config.do_sample, config.temperature, config.top_k, config.top_p) == (False, None, None, None)
    assert own.generation_config.temperature == 0.6


def test_out_of_memory_halves_the_batch_and_loses_no_text(
    model: Any, tokenizer: Any, questions: list[Question], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    wanted, rows, generate = ask(model, tokenizer, questions), [], model.generate

    def pretended(**inputs: Any) -> Any:
        """Runs out as torch does, with more than two rows at once."""
        rows.append(len(inputs["input_ids"]))
        if rows[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return generate(**inputs)

    monkeypatch.setattr(model, "generate", pretended)
    assert ask(model, tokenizer, questions) == wanted
    assert rows == [5, 2, 3, 1, 2]
    monkeypatch.setattr(model, "generate", lambda **_: pretended(input_ids=[0, 0, 0]))
    with pytest.raises(ColabMagicsError, match="Memory ran out at one prompt of"):
        ask(model, tokenizer, questions)


def test_an_interrupt_keeps_what_came(
    model: Any, tokenizer: Any, questions: list[Question], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "_BETWEEN", 0.0)

    def interrupt(place: int, text: str) -> None:
        if len(text) > 10:
            raise KeyboardInterrupt

    found = ask(model, tokenizer, questions[1:3], batch=1, tell=interrupt)
    assert found.interrupted
    [kept] = [one for one in found.answers if one.text]
    assert 10 < len(kept.text) < 40
    assert {one.end for one in found.answers} == {"interrupted", "not asked"}
    assert kept.end == "interrupted"


@pytest.mark.parametrize("beams", [1, 2])
def test_a_text_that_is_cut_is_known_from_one_that_the_model_has_ended(
    model: Any, tokenizer: Any, questions: list[Question], beams: int
) -> None:
    cut, whole = (
        ask(model, tokenizer, questions[1:2], num_beams=beams, max_new_tokens=most).answers[0] for most in (5, 64)
    )
    assert (cut.tokens, cut.end) == (5, "length")
    assert whole.tokens < 64
    assert whole.end == "end"


def test_a_prompt_beyond_the_context_is_named_by_its_number_and_length(
    model: Any, tokenizer: Any, questions: list[Question]
) -> None:
    with pytest.raises(ColabMagicsError, match="Prompt 2 is 600 tokens long, and the model's context is 512"):
        ask(model, tokenizer, [questions[0], Question("long", tuple(range(10, 610)))])


def test_an_answer_ends_where_the_context_does(model: Any, tokenizer: Any) -> None:
    long = Question("long", tuple([20] * 500))
    found = ask(model, tokenizer, [long], max_new_tokens=100, min_new_tokens=100)
    assert (found.answers[0].tokens, found.answers[0].end) == (12, "context")
    assert generating.context_of(model.config) == 512


def test_nobody_is_advised_to_pass_the_mask_that_was_passed(caplog: pytest.LogCaptureFixture) -> None:
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging as libraries

    from colab_magics.demo.tiny import tiny_model

    gpt2 = AutoModelForCausalLM.from_pretrained(tiny_model("gpt2")).eval()
    tokenizer = open_tokenizer(of_model(tiny_model("gpt2")))
    asked = generating.asker_of(of_model(tiny_model("gpt2")), tokenizer)("Hello!")
    begins_with_a_pad = replace(asked, ids=[gpt2.config.pad_token_id, *asked.ids])
    libraries.enable_propagation()
    try:
        ask(gpt2, tokenizer, [begins_with_a_pad], max_new_tokens=2)
    finally:
        libraries.disable_propagation()
    assert "attention_mask" not in caplog.text
