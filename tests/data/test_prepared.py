"""The token cache, the accounting of rows, and what the loop reads."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from colab_magics.data import Prepared, Source, prepare
from colab_magics.errors import ColabMagicsError
from colab_magics.recipe import Recipe

from .conftest import NOW, trained_texts, unseen, whole_text, write_jsonl

Prepare = Callable[..., Prepared]
Tokenizer = Callable[[], Any]

ROWS = [{"question": f"What is {n}+{n}?", "answer": f"It is {2 * n}."} for n in range(40)]


def test_a_second_run_finds_the_tokens(prepared: Prepare, gpt2: Tokenizer) -> None:
    first = prepared(ROWS, gpt2())
    second = prepared(ROWS, gpt2())
    assert (first.cached, second.cached) == (False, True)
    assert second.fingerprint == first.fingerprint
    assert second.tokens.tolist() == first.tokens.tolist()
    assert second.dropped == first.dropped
    assert second.notes == first.notes


def test_a_copy_of_the_data_is_the_same_data(prepared: Prepare, gpt2: Tokenizer, tmp_path: Path) -> None:
    prepared(ROWS, gpt2())
    copy = write_jsonl(tmp_path / "elsewhere.jsonl", ROWS)
    assert prepared(copy, gpt2()).cached


@pytest.mark.parametrize(
    "keys",
    [
        {"system": "Be brief."},
        {"loss_on": "all"},
        {"limit": 10},
        {"prompt_template": "{question} {answer}"},
        {"columns": {"prompt": "answer", "completion": "question"}},
    ],
)
def test_whatever_changes_the_tokens_makes_a_new_entry(
    prepared: Prepare, gpt2: Tokenizer, keys: dict[str, Any]
) -> None:
    first = prepared(ROWS, gpt2())
    other = prepared(ROWS, gpt2(), **keys)
    assert not other.cached
    assert other.fingerprint != first.fingerprint


def test_another_chat_template_makes_a_new_entry(prepared: Prepare, gpt2: Tokenizer) -> None:
    prepared(ROWS, gpt2())
    tokenizer = gpt2()
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
    assert not prepared(ROWS, tokenizer).cached


def test_the_clock_matters_only_to_templates_that_tell_the_time(gpt2: Tokenizer, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", ROWS)
    recipe = Recipe(model="demo", data=str(path))

    def at(now: datetime, template: str | None) -> Prepared:
        tokenizer = gpt2()
        tokenizer.chat_template = template
        source = Source("path", path.name, str(path))
        return prepare(source, tokenizer, recipe, split="train", cache=tmp_path / "c", now=now, progress=unseen)

    plain = at(NOW, None)
    assert at(NOW + timedelta(days=1), None).cached
    dated = "{{ strftime_now('%d %b %Y') }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    today = at(NOW, dated)
    assert not at(NOW + timedelta(days=1), dated).cached
    assert at(NOW, dated).cached
    assert whole_text(today, gpt2()).startswith("04 Mar 2025[user]")
    assert plain.fingerprint != today.fingerprint


@pytest.mark.parametrize("file", ["tokens.npy", "trained.npy", "offsets.npy", "meta.json"])
@pytest.mark.parametrize("damage", ["torn", "emptied", "overwritten", "gone"])
def test_a_damaged_entry_is_made_again(prepared: Prepare, gpt2: Tokenizer, file: str, damage: str) -> None:
    good = prepared(ROWS, gpt2())
    wanted = good.tokens.tolist()
    folder = good.folder
    del good
    path = folder / file
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        broken = {"torn": content[:-7], "emptied": b"", "overwritten": content[:-9] + b"\xff" * 9}[damage]
        path.write_bytes(broken)
    again = prepared(ROWS, gpt2())
    assert not again.cached
    assert again.tokens.tolist() == wanted
    assert prepared(ROWS, gpt2()).cached


def test_an_error_leaves_nothing_in_the_cache(prepared: Prepare, gpt2: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(json.dumps(ROWS[0]) + "\n{broken\n")
    with pytest.raises(ColabMagicsError, match="line 2"):
        prepared(path, gpt2())
    assert list((tmp_path / "cache" / "tokens").iterdir()) == []


def test_entries_hold_no_pickle(prepared: Prepare, gpt2: Tokenizer) -> None:
    folder = prepared(ROWS, gpt2()).folder
    for path in folder.glob("*.npy"):
        np.load(path, allow_pickle=False)
    assert {path.suffix for path in folder.iterdir()} == {".npy", ".json"}


def test_every_row_is_accounted_for(prepared: Prepare, gpt2: Tokenizer) -> None:
    shouting = (
        "{% for m in messages %}<|{{ m.role }}|>"
        "{% if m.role == 'assistant' and not loop.last %}{{ m.content | upper }}{% else %}{{ m.content }}{% endif %}"
        "{{ eos_token }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    tokenizer = gpt2()
    tokenizer.chat_template = shouting

    def turns(*said: str) -> dict[str, Any]:
        roles = ("user", "assistant")
        return {"messages": [{"role": roles[n % 2], "content": text} for n, text in enumerate(said)]}

    rows = [
        turns("a", "b"),
        turns("a", "b", "c", "d", "e", "f"),
        turns("a"),
        turns("a", "b", "c", "d"),
        {"messages": []},
    ]
    made = prepared(rows, tokenizer)
    dropped = sum(drop["count"] for drop in made.dropped)
    assert (made.rows, len(made.lengths), dropped) == (5, 6, 2)
    assert (made.split_rows, made.split_extra) == (2, 3)
    assert made.rows == len(made.lengths) + dropped - made.split_extra
    assert "one sample per turn (2 rows)" in made.mask_method
    assert any("2 rows became 5 documents" in note for note in made.notes)


def test_loss_on_all_trains_every_token_but_the_first(prepared: Prepare, gpt2: Tokenizer) -> None:
    made = prepared(ROWS, gpt2(), loss_on="all")
    for tokens, trained in made.documents(1000):
        assert trained.sum() == len(tokens) - 1
        assert not trained[0]


def test_documents_are_what_the_chat_template_renders(prepared: Prepare, phi3: Tokenizer) -> None:
    tokenizer = phi3()
    made = prepared(ROWS, tokenizer)
    for index, row in enumerate(ROWS):
        messages = [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": row["answer"]}]
        theirs = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
        tokens, trained = made.documents(1000)[index]
        assert theirs[: len(tokens)] == tokens.tolist()
        assert tokens.tolist().count(tokenizer.bos_token_id) == 1
        assert tokenizer.decode(tokens[trained].tolist()) == f"{row['answer']}<|end|>"
        assert tokenizer.decode(theirs[len(tokens) :]).strip() == ""


def test_long_documents_lose_their_end_and_those_without_a_response_are_counted(
    prepared: Prepare, gpt2: Tokenizer
) -> None:
    rows = [{"prompt": "a " * n, "completion": "b " * 20} for n in (5, 30, 300)]
    made = prepared(rows, gpt2())
    documents = made.documents(40)
    assert documents.lengths.tolist() == [27, 40]  # 5 a, 20 b, the last space, the end of text
    assert documents.truncated == 1
    assert documents.dropped == [{"reason": "the response begins after max_length 40", "count": 1}]
    assert documents[1][1].sum() == documents.trained_tokens - documents[0][1].sum()
    assert made.documents(1000).truncated == 0


def test_all_documents_too_long_says_what_max_length_would_do(prepared: Prepare, gpt2: Tokenizer) -> None:
    made = prepared([{"prompt": "a " * 50, "completion": "b"}], gpt2())
    with pytest.raises(ColabMagicsError) as caught:
        made.documents(16)
    assert "No rows are left" in str(caught.value)
    assert f"Raise max_length above {int(made.first_trained[0])}" in str(caught.value)
    assert len(made.documents(int(made.first_trained[0]) + 1)) == 1


def test_documents_are_a_sequence_of_views(prepared: Prepare, gpt2: Tokenizer) -> None:
    documents = prepared(ROWS, gpt2()).documents(64)
    assert len(documents) == len(ROWS)
    tokens, trained = documents[-1]
    assert tokens.dtype == np.int32
    assert trained.dtype == np.bool_
    assert not tokens.flags.owndata
    assert [len(pair[0]) for pair in documents[:3]] == documents.lengths[:3].tolist()
    with pytest.raises(IndexError):
        documents[len(documents)]
    assert documents.tokens == sum(len(pair[0]) for pair in documents)
    assert documents.trained_tokens == sum(int(pair[1].sum()) for pair in documents)


def test_plain_text_is_cut_into_windows_and_nothing_is_lost(prepared: Prepare, gpt2: Tokenizer, tmp_path: Path) -> None:
    tokenizer = gpt2()
    text = "".join(f"Line {n} of a long text.\n" for n in range(20_000))  # several pieces of 64 Ki characters
    path = tmp_path / "book.txt"
    path.write_text(text, encoding="utf-8")
    made = prepared(path, tokenizer)
    assert (made.rows, len(made.lengths), made.chunkable) == (1, 1, True)
    documents = made.documents(512)
    assert (documents.truncated, documents.dropped) == (0, [])
    assert set(documents.lengths[:-1].tolist()) == {512}
    joined = np.concatenate([tokens for tokens, _ in documents])
    assert tokenizer.decode(joined.tolist()) == text + "<|endoftext|>"
    assert all(trained.sum() == len(trained) - 1 for _, trained in documents)


def test_rows_of_text_are_documents_of_their_own(prepared: Prepare, gpt2: Tokenizer) -> None:
    tokenizer = gpt2()
    made = prepared([{"text": "one two three"}, {"text": "four"}, {"text": " "}], tokenizer)
    assert [whole_text(made, tokenizer, n) for n in range(2)] == ["one two three<|endoftext|>", "four<|endoftext|>"]
    assert made.dropped == [{"reason": "empty text", "count": 1, "example": "line 3"}]


def test_a_limit_reads_only_so_many_rows(prepared: Prepare, gpt2: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS[:10]) + "{never read\n")
    made = prepared(path, gpt2(), limit=10)
    assert made.rows == 10


def test_a_slow_tokenizer_is_prepared_alike(prepared: Prepare) -> None:
    transformers = pytest.importorskip("transformers")
    slow = transformers.ByT5Tokenizer()
    made = prepared(ROWS[:3], slow)
    assert trained_texts(made, slow) == ["It is 0.</s>"]


def test_progress_counts_up_to_its_total(gpt2: Tokenizer, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", ROWS * 50)
    seen: list[tuple[str, int, int | None, str]] = []
    recipe = Recipe(model="demo", data=str(path))
    source = Source("path", path.name, str(path))
    prepare(source, gpt2(), recipe, split="train", cache=tmp_path, now=NOW, progress=lambda *told: seen.append(told))
    in_bytes = [told for told in seen if told[3] == "bytes"]
    assert in_bytes
    assert all(0 <= done <= total == path.stat().st_size for _, done, total, _ in in_bytes)
    assert [told[1] for told in in_bytes] == sorted(told[1] for told in in_bytes)
    assert seen[-1] == ("tokenising", 2000, 2000, "rows")


@pytest.mark.parametrize("name", ["gpt2", "phi3"])
def test_a_thousand_alpaca_rows_take_less_than_a_second(
    name: str, request: pytest.FixtureRequest, shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = shared_data / "alpaca_en_1k.json"
    recipe = Recipe(model="demo", data=str(path))
    source = Source("path", path.name, str(path))
    tokenizer = request.getfixturevalue(name)()

    def run() -> tuple[Prepared, float, float]:
        start, cpu = time.perf_counter(), time.process_time()
        made = prepare(source, tokenizer, recipe, split="train", cache=tmp_path, now=NOW, progress=unseen)
        return made, time.perf_counter() - start, time.process_time() - cpu

    made, seconds, cpu = run()
    again, found, found_cpu = run()
    with capsys.disabled():
        print(
            f"\n{made.rows} Alpaca rows, {len(made.tokens):,} {name} tokens: {seconds:.2f} s, {cpu:.2f} s of CPU; "
            f"from the cache {found * 1000:.0f} ms"
        )
    assert again.cached
    assert made.rows == len(made.lengths) + sum(drop["count"] for drop in made.dropped)
    # CPU seconds: what other processes do on this machine is not measured.
    assert cpu < 2.0
    assert found_cpu < 0.5
