"""Judged answers, in pairs and single, in the shapes that data sets have them; what is compared, and what left out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from colab_magics.data import Prepared, Source, load_prepared
from colab_magics.data.judgements import check_both_judged
from colab_magics.data.report import data_event, report_lines
from colab_magics.errors import ColabMagicsError

from .conftest import trained_texts, whole_text

Prepare = Callable[..., Prepared]
Tokenizer = Callable[[], Any]

ASKED, GOOD, BAD = "Where is Rome?", "In Italy.", "In Spain."
USER = {"role": "user", "content": ASKED}
GOOD_TURN, BAD_TURN = {"role": "assistant", "content": GOOD}, {"role": "assistant", "content": BAD}
PHI3 = "<s><|user|> \nWhere is Rome?<|end|> \n<|assistant|> \n"  # as its tokenizer decodes it
HH = "\n\nHuman: Where is Rome?\n\nAssistant:"


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": ASKED, "chosen": GOOD, "rejected": BAD},
        {"question": ASKED, "chosen": GOOD, "rejected": BAD, "id": 3},
        {"Prompt": ASKED, "Chosen": GOOD, "Rejected": BAD},
        {"prompt": [USER], "chosen": [GOOD_TURN], "rejected": [BAD_TURN]},
        {"prompt": [USER], "chosen": GOOD, "rejected": BAD},
        {"prompt": ASKED, "chosen": [USER, GOOD_TURN], "rejected": [USER, BAD_TURN]},
        {"prompt": ASKED, "chosen": [GOOD_TURN], "rejected": [BAD_TURN]},
        {"chosen": [USER, GOOD_TURN], "rejected": [USER, BAD_TURN], "score_chosen": 7.0},
        {"chosen": f"{HH} {GOOD}", "rejected": f"{HH} {BAD}"},
        {
            "conversations": [{"from": "human", "value": ASKED}],
            "chosen": {"from": "gpt", "value": GOOD},
            "rejected": {"from": "gpt", "value": BAD},
        },
    ],
    ids=["text", "question", "Capitals", "turns", "turns and text", "UltraFeedback", "prompt beside turns",
         "whole conversations", "Anthropic HH", "LLaMA-Factory"],
)  # fmt: skip
def test_each_shape_of_pair_becomes_the_same_two_documents(prepared: Prepare, phi3: Tokenizer, row: dict) -> None:
    tokenizer = phi3()
    made = prepared([row], tokenizer, objective="dpo")
    assert [whole_text(made, tokenizer, index) for index in (0, 1)] == [f"{PHI3}{said}<|end|>" for said in (GOOD, BAD)]
    assert [text.strip() for text in trained_texts(made, tokenizer)] == [f"{GOOD}<|end|>"]
    assert [text.strip() for text in trained_texts(made, tokenizer, 1)] == [f"{BAD}<|end|>"]
    assert (made.rows, made.together, made.desirable.tolist()) == (1, 2, [True, False])


def test_of_a_long_conversation_only_what_differs_is_compared(prepared: Prepare, phi3: Tokenizer) -> None:
    before = [USER, GOOD_TURN, {"role": "user", "content": "And Oslo?"}]
    row = {
        "chosen": [*before, {"role": "assistant", "content": "In Norway."}],
        "rejected": [*before, {"role": "assistant", "content": "In Peru."}],
    }
    tokenizer = phi3()
    made = prepared([row], tokenizer, objective="orpo")
    assert [text.strip() for text in trained_texts(made, tokenizer)] == ["In Norway.<|end|>"]
    assert [text.strip() for text in trained_texts(made, tokenizer, 1)] == ["In Peru.<|end|>"]


def test_a_base_model_s_texts_are_joined_as_they_are_written(prepared: Prepare, gpt2: Tokenizer) -> None:
    tokenizer = gpt2()
    made = prepared([{"prompt": "1 + 1 =", "chosen": " 2", "rejected": " 3"}], tokenizer, objective="dpo")
    assert whole_text(made, tokenizer) == "1 + 1 = 2<|endoftext|>"
    assert trained_texts(made, tokenizer, 1) == [" 3<|endoftext|>"]


def test_transcripts_stay_as_they_are_for_a_base_model(prepared: Prepare, gpt2: Tokenizer) -> None:
    tokenizer = gpt2()
    made = prepared([{"chosen": f"{HH} {GOOD}", "rejected": f"{HH} {BAD}"}], tokenizer, objective="dpo")
    assert whole_text(made, tokenizer) == f"{HH} {GOOD}<|endoftext|>"
    assert trained_texts(made, tokenizer) == [f" {GOOD}<|endoftext|>"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": ASKED, "chosen": GOOD, "rejected": f"{GOOD} "}, "chosen and rejected are the same"),
        ({"prompt": ASKED, "chosen": GOOD, "rejected": ""}, "empty rejected"),
        ({"prompt": "", "chosen": GOOD, "rejected": BAD}, "empty prompt"),
        ({"prompt": ASKED, "chosen": GOOD}, "no rejected"),
        ({"chosen": [USER, GOOD_TURN], "rejected": [{"role": "user", "content": "?"}, BAD_TURN]},
         "do not begin with the same prompt"),
        ({"chosen": [USER, GOOD_TURN, USER, BAD_TURN], "rejected": [USER, GOOD_TURN]}, "beginning of the other"),
        ({"chosen": [USER, GOOD_TURN, USER, BAD_TURN], "rejected": [USER, GOOD_TURN, {"role": "user", "content": "?"},
          BAD_TURN]}, "part where the user speaks"),
    ],
)  # fmt: skip
def test_a_pair_that_cannot_be_compared_is_left_out_whole_and_counted(
    prepared: Prepare, phi3: Tokenizer, row: dict, reason: str
) -> None:
    good = {"prompt": ASKED, "chosen": [USER, GOOD_TURN], "rejected": [USER, BAD_TURN]}
    if isinstance(row["chosen"], str):
        good = {"prompt": ASKED, "chosen": GOOD, "rejected": BAD}
    made = prepared([good, row, good], phi3(), objective="dpo")
    assert len(made.lengths) == 4
    (drop,) = made.dropped
    assert reason in drop["reason"]
    assert (drop["count"], drop["example"]) == (1, "line 2")


@pytest.mark.parametrize(
    ("label", "judged"),
    [
        (True, True),
        (False, False),
        (1, True),
        (0, False),
        (-1, False),
        ("true", True),
        ("False", False),
        ("bad", False),
    ],
)
def test_a_label_in_any_of_its_spellings(prepared: Prepare, phi3: Tokenizer, label: Any, judged: bool) -> None:
    rows = [{"prompt": ASKED, "completion": GOOD, "label": label}]
    made = prepared(rows, phi3(), objective="kto")
    assert (made.together, made.desirable.tolist()) == (1, [judged])


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": ASKED, "completion": GOOD, "label": True},
        {"prompt": [USER], "completion": [GOOD_TURN], "label": True},
        {"messages": [USER, GOOD_TURN], "kto_tag": True},
    ],
)
def test_each_shape_of_judged_answer(prepared: Prepare, phi3: Tokenizer, row: dict) -> None:
    tokenizer = phi3()
    made = prepared([row], tokenizer, objective="kto")
    assert [text.strip() for text in trained_texts(made, tokenizer)] == [f"{GOOD}<|end|>"]


def test_a_label_that_is_none_is_counted(prepared: Prepare, phi3: Tokenizer) -> None:
    rows = [{"prompt": ASKED, "completion": GOOD, "label": label} for label in (True, "perhaps", None)]
    made = prepared(rows, phi3(), objective="kto")
    assert sorted(drop["reason"] for drop in made.dropped) == ["label 'perhaps' is neither true nor false", "no label"]


@pytest.mark.parametrize(
    ("label", "there", "missing", "add"), [(True, "good", "bad", "false"), (False, "bad", "good", "true")]
)
def test_answers_that_are_judged_all_alike_are_refused(
    prepared: Prepare, phi3: Tokenizer, label: bool, there: str, missing: str, add: str
) -> None:
    rows = [{"prompt": ASKED, "completion": GOOD, "label": label}] * 3
    rows.append({"prompt": ASKED, "completion": BAD, "label": "perhaps"})
    made = prepared(rows, phi3(), objective="kto")
    with pytest.raises(ColabMagicsError) as raised:
        check_both_judged(made.documents(64), Source("path", "rows.jsonl"), made.dropped)
    said = str(raised.value)
    assert f"All 3 answers of rows.jsonl are judged {there}." in said
    assert f"nothing is judged {missing}" in said
    assert f"Add rows with label: {add}." in said
    assert "1 × label 'perhaps' is neither true nor false" in said, "it may have been meant as the other kind"


def test_one_answer_of_each_kind_is_enough_and_so_is_a_pair(prepared: Prepare, phi3: Tokenizer) -> None:
    judged = [{"prompt": ASKED, "completion": GOOD, "label": label} for label in (True, False)]
    pair = [{"prompt": ASKED, "chosen": GOOD, "rejected": BAD}]
    for rows, objective in ((judged, "kto"), (pair, "kto"), (pair, "dpo")):
        made = prepared(rows, phi3(), objective=objective)
        check_both_judged(made.documents(64), Source("path", "rows.jsonl"), made.dropped)


def test_pairs_of_the_same_answer_twice_are_told_what_a_pair_is(prepared: Prepare, phi3: Tokenizer) -> None:
    with pytest.raises(ColabMagicsError) as raised:
        prepared([{"prompt": ASKED, "chosen": GOOD, "rejected": GOOD}] * 3, phi3(), objective="dpo")
    said = str(raised.value)
    assert "3 rows: chosen and rejected are the same" in said
    assert "Give each prompt two answers that differ" in said
    assert "completion" not in said


@pytest.mark.parametrize(
    ("row", "objective", "columns"),
    [
        ({"prompt": ASKED, "chosen": GOOD, "rejected": ""}, "dpo", "{prompt: …, chosen: …, rejected: …}"),
        ({"prompt": ASKED, "chosen": GOOD, "rejected": ""}, "orpo", "{prompt: …, chosen: …, rejected: …}"),
        ({"prompt": ASKED, "completion": "", "label": True}, "kto", "{prompt: …, completion: …, label: …}"),
    ],
)
def test_rows_of_which_none_is_left_are_told_the_columns_of_their_method(
    prepared: Prepare, phi3: Tokenizer, row: dict, objective: str, columns: str
) -> None:
    with pytest.raises(ColabMagicsError) as raised:
        prepared([row] * 2, phi3(), objective=objective)
    assert columns in str(raised.value)


def test_pairs_that_differ_only_behind_max_length_are_told_how_long_they_are(
    prepared: Prepare, phi3: Tokenizer
) -> None:
    row = {"prompt": ASKED, "chosen": "Rome " * 40 + "a", "rejected": "Rome " * 40 + "b"}
    made = prepared([row] * 2, phi3(), objective="dpo")
    with pytest.raises(ColabMagicsError) as raised:
        made.documents(24)
    assert "the same up to max_length 24" in str(raised.value)
    assert f"the longest answer ends at {made.lengths.max()}" in str(raised.value)
    assert len(made.documents(int(made.lengths.max()))) == 4


def test_kto_takes_the_answers_of_pairs_one_by_one(prepared: Prepare, phi3: Tokenizer) -> None:
    made = prepared([{"prompt": ASKED, "chosen": GOOD, "rejected": BAD}] * 3, phi3(), objective="kto")
    documents = made.documents(64)
    assert (len(documents.samples), documents.desirable.tolist()) == (6, [True, False] * 3)


@pytest.mark.parametrize(
    ("row", "objective", "said"),
    [
        ({"prompt": ASKED, "completion": GOOD}, "dpo", "has no pairs of answers, which dpo compares"),
        ({"prompt": ASKED, "completion": GOOD, "label": True}, "dpo", "Write method: kto"),
        ({"prompt": ASKED, "completion": GOOD}, "kto", "has no label"),
        ({"messages": [USER, GOOD_TURN]}, "orpo", "has no pairs"),
        ({"chosen": GOOD, "rejected": BAD}, "dpo", "and no prompt"),
        ({"prompt": ASKED, "chosen": GOOD, "rejected": BAD}, "sft", "method: dpo"),
    ],
)
def test_the_wrong_data_for_the_method_is_refused_with_the_way_out(
    prepared: Prepare, phi3: Tokenizer, row: dict, objective: str, said: str
) -> None:
    with pytest.raises(ColabMagicsError) as raised:
        prepared([row], phi3(), objective=objective)
    assert said in str(raised.value)


def test_conversations_are_refused_where_the_model_has_no_template(prepared: Prepare, gpt2: Tokenizer) -> None:
    with pytest.raises(ColabMagicsError, match="the model has no chat template"):
        prepared([{"chosen": [USER, GOOD_TURN], "rejected": [USER, BAD_TURN]}], gpt2(), objective="dpo")


def test_columns_of_other_names_are_named(prepared: Prepare, phi3: Tokenizer) -> None:
    row = {"q": ASKED, "better": GOOD, "worse": BAD}
    columns = {"prompt": "q", "chosen": "better", "rejected": "worse"}
    made = prepared([row], phi3(), objective="dpo", columns=columns)
    assert made.together == 2


def test_a_pair_stays_a_pair_when_one_answer_is_cut_or_begins_too_late(prepared: Prepare, phi3: Tokenizer) -> None:
    short = {"prompt": ASKED, "chosen": GOOD, "rejected": "In Spain, " * 20}
    late = {"prompt": "word " * 50, "chosen": GOOD, "rejected": BAD}
    same = {"prompt": ASKED, "chosen": "Rome " * 40 + "a", "rejected": "Rome " * 40 + "b"}
    documents = prepared([short, late, same, short], phi3(), objective="dpo").documents(24)
    assert len(documents) == 4
    assert documents.truncated == 2
    assert documents.desirable.tolist() == [True, False] * 2
    reasons = {drop["reason"]: drop["count"] for drop in documents.dropped}
    assert reasons == {
        "the response begins after max_length 24": 1,
        "both answers are the same up to max_length 24": 1,
    }
    assert np.array_equal(documents.samples, [24, 24])


def test_the_report_shows_one_pair_and_counts_pairs(prepared: Prepare, phi3: Tokenizer) -> None:
    tokenizer = phi3()
    made = prepared([{"prompt": ASKED, "chosen": GOOD, "rejected": BAD}] * 2, tokenizer, objective="dpo")
    told = data_event(made, made.documents(64), {"kind": "path", "name": "rows.jsonl"}, tokenizer)
    lines = "\n".join(report_lines(told))
    assert "2 read, 2 pairs of answers to compare" in lines
    assert f"«{GOOD}<|end|>»" in lines.replace("« ", "«")
    assert f"«{BAD}<|end|>»" in lines.replace("« ", "«")


def test_the_report_counts_both_judgements(prepared: Prepare, phi3: Tokenizer) -> None:
    tokenizer = phi3()
    rows = [{"prompt": ASKED, "completion": GOOD, "label": label} for label in (True, True, False)]
    made = prepared(rows, tokenizer, objective="kto")
    told = data_event(made, made.documents(64), {"kind": "path", "name": "rows.jsonl"}, tokenizer)
    assert "2 desirable and 1 undesirable answers" in "\n".join(report_lines(told))


def test_the_judgements_are_found_again_with_the_tokens(prepared: Prepare, phi3: Tokenizer) -> None:
    rows = [{"prompt": ASKED, "completion": GOOD, "label": label} for label in (True, False)]
    first, again = (prepared(rows, phi3(), objective="kto") for _ in range(2))
    assert (first.cached, again.cached) == (False, True)
    assert again.desirable.tolist() == [True, False]
    assert load_prepared(first.folder).fingerprint == first.fingerprint


def test_other_judgements_are_other_data(prepared: Prepare, phi3: Tokenizer) -> None:
    one, other = (
        prepared([{"prompt": ASKED, "completion": GOOD, "label": label}], phi3(), objective="kto")
        for label in (True, False)
    )
    assert one.fingerprint != other.fingerprint
