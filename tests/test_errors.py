"""Errors are short, safe to print anywhere, and survive the trip from the worker."""

from __future__ import annotations

import json

import pytest

from colab_magics.errors import ColabMagicsError, Interrupted, clean, nearest, redact

pytestmark = [pytest.mark.colab, pytest.mark.face]

TOKEN = "hf_" + "abcdefghijklmnopqrstuvwxyz0123456789"


def test_an_error_has_what_why_and_what_next_in_at_most_eight_lines() -> None:
    error = ColabMagicsError("It broke.", "Because.", "Do this.", "Or that.", details=[f"line {n}" for n in range(20)])
    lines = error.lines()
    assert lines[:2] == ["It broke.", "Because."]
    assert lines[-2:] == ["→ Do this.", "→ Or that."]
    assert len(lines) == 8
    assert lines[-3] == "  line 19", "of long details the end is kept, as of a log"


def test_ipython_is_given_the_lines_in_place_of_a_traceback() -> None:
    assert ColabMagicsError("It broke.")._render_traceback_() == ["It broke."]


def test_no_ansi_no_control_characters_and_no_token_leave_through_an_error() -> None:
    hostile = f"\x1b[31mred\x1b[0m \x1b]0;title\x07 \x08\x9b bell\x07 \u202egnp {TOKEN}"
    text = str(ColabMagicsError(hostile, hostile, hostile, details=[hostile]))
    assert "\x1b" not in text
    assert not any(ord(character) < 32 and character != "\n" for character in text)
    assert TOKEN not in text
    assert "hf_***" in text


def test_an_error_reads_the_same_after_a_trip_through_the_event_log() -> None:
    error = ColabMagicsError("It broke.", "Because.", "Do this.", details=["one"])
    back = ColabMagicsError.from_dict(json.loads(json.dumps(error.to_dict())))
    assert back.lines() == error.lines()


def test_an_interruption_keeps_its_name_on_the_trip() -> None:
    error = Interrupted("at step 3.")
    back = ColabMagicsError.from_dict(error.to_dict())
    assert isinstance(back, Interrupted)
    assert back.lines() == ["Interrupted: at step 3."]


def test_a_kind_that_is_told_apart_in_code_is_no_word_of_a_persons() -> None:
    class Odd(ColabMagicsError):
        pass

    assert Odd("It cannot be saved.").lines() == ["It cannot be saved."]


def test_clean_keeps_tabs_newlines_and_other_scripts() -> None:
    assert clean("a\tb\nčeské 漢字 العربية") == "a\tb\nčeské 漢字 العربية"


@pytest.mark.parametrize("name", ["nosuch", "other"])
def test_a_word_with_a_few_letters_in_common_is_not_near(name: str) -> None:
    assert nearest(name, ["noepoch", "re", "dead2", "deadl", "mother-of-all"]) is None


def test_redact_leaves_words_that_only_begin_like_a_token() -> None:
    assert redact("hf_hub_download hf_home") == "hf_hub_download hf_home"


@pytest.mark.parametrize(
    ("word", "expected"), [("learnig_rate", "learning_rate"), ("LORA_ALPHA", "lora_alpha"), ("qqqq", None)]
)
def test_nearest_names_the_closest_or_nothing(word: str, expected: str | None) -> None:
    assert nearest(word, ["learning_rate", "lora_alpha", "model"]) == expected
