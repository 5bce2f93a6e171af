"""Two sides on the same cases: scored by one's own function, failures kept, never two bases in memory."""

from __future__ import annotations

import gc
import json
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from colab_magics import demo
from colab_magics.data.asking import Question
from colab_magics.errors import ColabMagicsError
from colab_magics.inference import loaded
from colab_magics.inference.cases import Case
from colab_magics.inference.compare import _failures, _side
from colab_magics.inference.decoding import Answer
from colab_magics.inference.loaded import kept
from colab_magics.inference.subject import of_model
from colab_magics.magics import compare as face
from colab_magics.magics import generate as ask
from colab_magics.magics.compare_line import read
from colab_magics.magics.compare_show import bundle, cut, differing
from colab_magics.magics.generate_line import read as read_generate

pytestmark = pytest.mark.colab
Leave = Callable[..., Path]


def compare(root: Path, *words: str, body: str | None = None, **namespace: Any) -> Any:
    return face.run(read([*words, "--max-new-tokens", "6"]), body, root, namespace)


def generate(root: Path, *words: str, body: str | None = None, **namespace: Any) -> Any:
    asked = read_generate([*words, "--max-new-tokens", "6"])
    return ask.run(asked, body, root, SimpleNamespace(user_ns=namespace))


def test_a_score_of_ones_own_is_called_with_prompt_text_and_reference(a_run: Leave, tmp_path: Path) -> None:
    a_run()
    seen = []

    def score(prompt: str, text: str, reference: str | None) -> bool:
        seen.append((prompt, text, reference))
        return len(seen) % 2 == 0

    asked = [{"question": "What is a list?", "answer": "a list"}, "Hello!"]
    made = compare(tmp_path, "--prompts", "asked", "--score", "score", asked=asked, score=score)
    assert [(prompt, reference) for prompt, _, reference in seen[:2]] == [
        ("What is a list?", "a list"),
        ("Hello!", None),
    ]
    assert made.after.scores == (0.0, 1.0)
    assert made.after.score == 0.5
    assert [row["asked"] for row in made.failures] == ["What is a list?"]
    assert made.failures[0]["completion"] == "a list"
    assert made.after.loss is None


@pytest.mark.parametrize("text", ["a", "A list", "a list.", "", "a  list"])
def test_what_is_nearly_the_reference_is_no_exact_match_and_white_space_around_it_is_nothing(text: str) -> None:
    case = Case(Question("What is it?", (1,), "a list"))
    texts = [Answer(text, 1, "end"), Answer(" a list\n", 2, "end")]
    assert _side("run pirate", [case, case], texts, [None, None], None).exact == 0.5


def test_a_score_at_the_threshold_has_not_failed() -> None:
    tokenizer = loaded.open_tokenizer(of_model("demo"))
    case = Case(Question("What is it?", (1,), "a list"))
    texts = [Answer("x", 1, "end")] * 2
    scores = iter([0.7, 0.69])
    side = _side("run pirate", [case] * 2, texts, [None] * 2, lambda *_: next(scores))
    failed = _failures([case] * 2, side, side, tokenizer, 0.7)
    assert [row["score"] for row in failed] == [0.69]


def test_the_loss_is_that_of_all_tokens_so_that_a_long_answer_weighs_more() -> None:
    texts = [Answer("", 0, "end")] * 2
    side = _side("run pirate", [Case(None)] * 2, texts, [(4.0, 1), (1.0, 9)], None)
    assert (side.losses, side.loss) == ((4.0, 1.0), 1.3)


@pytest.mark.parametrize(
    ("score", "said"),
    [
        (lambda *_: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda *_: "good", "gave str 'good' on 'Hello!', which is no number"),
        (lambda *_: None, "gave NoneType 'None'"),
        (lambda *_: float("nan"), "gave float 'nan' on 'Hello!', which is no number"),
        (lambda: 1, "TypeError"),
    ],
)
def test_a_score_that_fails_is_told_with_the_prompt(a_run: Leave, tmp_path: Path, score: Any, said: str) -> None:
    a_run()
    with pytest.raises(ColabMagicsError) as refused:
        compare(tmp_path, "--score", "score", body="Hello!", score=score)
    assert said in str(refused.value)


def test_of_several_prompts_the_one_that_cannot_be_asked_is_told_by_its_number(a_run: Leave, tmp_path: Path) -> None:
    a_run()
    for each in (compare, generate):
        with pytest.raises(ColabMagicsError, match=r"^Prompt 2 of 3: The prompt is empty\."):
            each(tmp_path, "--prompts", "asked", asked=["ok", "", "x"])
    with pytest.raises(ColabMagicsError, match=r"--bench takes no prompt"):
        generate(tmp_path, "--bench", body="Hello!")


def test_a_run_without_a_result_is_told_by_lines_that_both_magics_have(a_run: Leave, tmp_path: Path) -> None:
    a_run(result=False, steps=(2,))
    for each in (compare, generate):
        with pytest.raises(ColabMagicsError, match="has no result") as refused:
            each(tmp_path, "--run", "pirate", body="Hello!")
        assert "%generate --run pirate --base asks the model" in str(refused.value)
        assert "--run pirate --checkpoint 2 asks its newest" in str(refused.value)


def test_after_full_fine_tuning_the_base_is_loaded_when_the_tuned_one_has_gone(
    a_run: Leave, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    folder = a_run(result=False, method="full")
    shutil.copytree(demo.model_path(), folder / "model")
    load, alive, before = loaded._load_base, [], []

    def watched(*arguments: Any) -> Any:
        gc.collect()
        alive.append(sum(one() is not None for one in before))
        made = load(*arguments)
        before.append(weakref.ref(made))
        return made

    monkeypatch.setattr(loaded, "_load_base", watched)
    made = compare(tmp_path, "--data", "demo", "--rows", "2")
    assert alive == [0, 0]
    assert (made.before.label, made.after.label) == ("the base of pirate", "run pirate")
    assert made.before.loss == pytest.approx(made.after.loss)
    assert made.before.texts == made.after.texts
    compare(tmp_path, "--data", "demo", "--rows", "1")
    assert alive == [0, 0, 0], "the tuned one is there from before, and is asked first"


def test_with_an_adapter_one_base_serves_both(a_run: Leave, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a_run()
    load, calls = loaded._load_base, []
    monkeypatch.setattr(loaded, "_load_base", lambda *arguments: calls.append(1) or load(*arguments))
    made = compare(tmp_path, "--data", "demo", "--rows", "3")
    assert len(calls) == 1
    assert made.before.loss < made.after.loss, "the adapter is of random numbers"
    here = kept()
    assert here is not None
    assert len(here.names) == 1


def test_failures_are_written_whole_or_not_at_all_and_a_place_that_cannot_be_is_refused_first(
    a_run: Leave, tmp_path: Path
) -> None:
    a_run()
    target = tmp_path / "failed.jsonl"
    made = compare(tmp_path, "--data", "demo", "--rows", "2", "--failures", str(target))
    rows = [json.loads(line) for line in target.read_text().splitlines()]
    assert [row["asked"] for row in rows] == list(made.prompts)
    assert list(rows[0]) == ["prompt", "completion", "asked", "said", "said_before", "score"]
    assert not list(tmp_path.glob(".*partial"))
    with pytest.raises(ColabMagicsError, match=r"ends in \.jsonl"):
        compare(tmp_path, "--failures", str(tmp_path / "failed.csv"))


def test_failures_replace_earlier_failures_and_no_other_file_and_never_the_rows_they_come_from(
    a_run: Leave, tmp_path: Path
) -> None:
    a_run()
    failed, mine, link = (tmp_path / name for name in ("failed.jsonl", "mine.jsonl", "link.jsonl"))
    rows = '{"prompt": "Hello!", "completion": " Hi."}\n' * 24
    mine.write_text(rows)
    link.symlink_to(mine)
    asked = ("--data", str(mine), "--rows", "1", "--failures")
    for named in (mine, link):
        with pytest.raises(ColabMagicsError, match="is the file of --data"):
            compare(tmp_path, *asked, str(named))
    with pytest.raises(ColabMagicsError, match="holds no failures of %compare"):
        compare(tmp_path, "--data", "demo", "--failures", str(mine))
    assert mine.read_text() == rows
    compare(tmp_path, *asked, str(failed))
    compare(tmp_path, *asked, str(failed))
    assert len(failed.read_text().splitlines()) == 1
    with pytest.raises(ColabMagicsError, match="is the file of --data"):
        compare(tmp_path, "--data", str(failed), "--failures", str(failed))


def test_prompts_that_are_tried_out_leave_what_was_measured_on_rows(a_run: Leave, tmp_path: Path) -> None:
    folder = a_run()
    compare(tmp_path, "--data", "demo", "--rows", "1")
    measured = (folder / "compare.json").read_text()
    compare(tmp_path, "--lines", body="Hello!\nWhat is a list?")
    assert (folder / "compare.json").read_text() == measured
    asked = json.loads((folder / "compare-prompts.json").read_text())
    assert [row["prompt"] for row in asked["rows"]] == ["Hello!", "What is a list?"]
    assert {"compare.json", "compare-prompts.json"} == {one.name for one in folder.glob("*compare*")}


def test_what_a_comparison_rests_on_is_kept_with_it_and_what_it_replaces_is_told(
    a_run: Leave, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = a_run()
    compare(tmp_path, "--data", "demo", "--rows", "2", "--temperature", "2", "--seed", "1")
    kept = json.loads((folder / "compare.json").read_text())
    assert kept["sampling"] == {"do_sample": True, "max_new_tokens": 6, "temperature": 2.0, "seed": 1}
    assert (kept["base"]["cut"], kept["tuned"]["cut"]) == (2, 2)
    assert "%report pirate shows it, too.\n" in capsys.readouterr().out
    compare(tmp_path, "--data", "demo", "--rows", "1")
    assert "%report pirate shows it, too, in the place of the one on 2 cases." in capsys.readouterr().out


def test_rows_that_the_run_was_trained_on_are_called_so(
    a_run: Leave, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLAB_MAGICS_CACHE", str(tmp_path / "cache"))
    folder = a_run()
    made = compare(tmp_path, "--data", "demo", "--rows", "2")
    assert made.trained_on is None, "its data are not there any more"
    (entry,) = {path.parent for path in (tmp_path / "cache" / "tokens").glob("*/meta.json")}
    shutil.copytree(entry, folder / "prepared" / "train")
    new = [{"role": "user", "content": "New?"}, {"role": "assistant", "content": "Yes."}]
    rows = [*demo.data_path().read_text().splitlines()[:2], json.dumps({"messages": new})]
    (tmp_path / "mixed.jsonl").write_text("\n".join(rows))
    capsys.readouterr()
    made = compare(tmp_path, "--data", str(tmp_path / "mixed.jsonl"))
    assert made.trained_on == 2
    assert "Of these rows 2 of 3 are among the trained documents" in capsys.readouterr().out
    assert json.loads((folder / "compare.json").read_text())["trained_on"] == 2


def test_rows_that_cannot_be_asked_are_said_to_be_left_out(
    a_run: Leave, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a_run()
    rows = [("What is a list?", "a"), ("", "b"), ("x", "")]
    made = compare(tmp_path, "--data", "d", d=[{"prompt": one, "completion": other} for one, other in rows])
    assert len(made.prompts) == 1
    said = capsys.readouterr().out
    assert "Left out of d: 1 × empty prompt (first: " in said
    assert "Left out of d: 1 × empty completion (first: " in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["pirate"], "pirate is a run, and a line without an option is a prompt."),
        (["--run", "pirate", "--with", "pirate"], "--with pirate sets one model beside itself."),
        (["--checkpoints", "4,4"], "--checkpoints 4,4 sets one model beside itself."),
        (["Hello!", "--rows", "3"], "--rows goes with data, and here are prompts."),
    ],
)
def test_a_line_that_cannot_mean_what_it_says_asks_nothing(
    a_run: Leave, tmp_path: Path, words: list[str], said: str
) -> None:
    folder = a_run()
    with pytest.raises(ColabMagicsError) as refused:
        compare(tmp_path, *words)
    assert refused.value.what == said
    assert not list(folder.glob("compare*"))


def test_rows_beside_prompts_in_the_cell_are_refused_as_well(a_run: Leave, tmp_path: Path) -> None:
    a_run()
    with pytest.raises(ColabMagicsError, match="--rows goes with data"):
        compare(tmp_path, "--rows", "3", body="Hello!")


def test_a_runs_name_alone_is_no_prompt_unless_it_stands_in_the_cell(a_run: Leave, tmp_path: Path) -> None:
    a_run()
    with pytest.raises(ColabMagicsError, match="Write %generate --run pirate"):
        generate(tmp_path, "pirate")
    assert generate(tmp_path, body="pirate").prompts == ("pirate",)


def test_a_seed_without_a_draw_is_said_to_change_nothing(
    a_run: Leave, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a_run()
    generate(tmp_path, "--seed", "5", body="Hello!")
    assert "--seed changes nothing here: the likeliest token is taken each time." in capsys.readouterr().out


def test_an_empty_place_of_a_frame_is_no_prompt(a_run: Leave, tmp_path: Path) -> None:
    a_run()
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"prompt": ["What is a list?", None], "completion": ["a", "b"]})
    for asked in (frame, frame["prompt"]):
        with pytest.raises(ColabMagicsError, match=r"no prompt|Place 2 of asked holds nothing"):
            generate(tmp_path, "--prompts", "asked", asked=asked)


def test_texts_that_are_cut_are_told_in_a_line_and_in_a_table(
    a_run: Leave, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a_run()
    made = generate(tmp_path, "--run", "pirate", "--base", body="What does len do?")
    assert made.ends == ("length",)
    assert "[cut at 6 tokens: --max-new-tokens N allows more]" in capsys.readouterr().out
    made = generate(tmp_path, "--base", "--lines", body="What does len do?\nHello!")
    assert capsys.readouterr().out.count("  cut at 6 tokens: --max-new-tokens N allows more\n") == made.ends.count(
        "length"
    )
    both = compare(tmp_path, "--lines", body="What does len do?")
    assert both.before.ends == ("length",)
    assert "Cut before their end: 1 of the base of pirate" in cut(both)[0]


def test_a_run_whose_base_has_moved_is_asked_and_compared_on_the_base_that_is_named(
    a_run: Leave, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    moved, now = tmp_path / "big", tmp_path / "elsewhere"
    config = a_run(model=str(moved)) / "adapter" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": str(moved)}))
    shutil.copytree(demo.model_path(), now)
    for each in (compare, generate):
        with pytest.raises(ColabMagicsError, match=r"There is no folder .*big") as refused:
            each(tmp_path, "--run", "pirate", body="Hello!")
        assert "It is what pirate was trained on" in str(refused.value)
        assert "--run pirate --model FOLDER" in str(refused.value)
    named = generate(tmp_path, "--run", "pirate", "--model", str(now), body="Hello!")
    both = compare(tmp_path, "--run", "pirate", "--model", str(now), body="Hello!")
    assert both.after.texts == named.texts
    assert both.before.texts != both.after.texts
    assert f"has gone: the adapter of run pirate is put on {now}." in capsys.readouterr().out
    with pytest.raises(ColabMagicsError, match=r"There is no folder .*big") as refused:
        generate(tmp_path, "--model", str(config.parent), body="Hello!")
    assert "base_model_name_or_path" in str(refused.value)


def test_texts_of_models_are_escaped_and_what_differs_is_marked() -> None:
    before, after = differing("a list is <b>fixed</b>", "a list be <b>fixed</b>")
    assert [text for text, marked in before.parts if marked] == ["is"]
    assert [text for text, marked in after.parts if marked] == ["be"]
    side = face_side("base", "a list is <b>"), face_side("tuned", "a list be <b>")
    from colab_magics.inference.compare import Compared

    made = Compared(("<script>alert(1)</script>",), (None,), *side, 1.0)
    shown = bundle(made, [])
    assert "<script>" not in shown["text/html"]
    assert "a list <mark>be</mark> &lt;b&gt;" in shown["text/html"]
    assert "tuned      a list be <b>" in shown["text/plain"]


def face_side(label: str, text: str) -> Any:
    from colab_magics.inference.compare import Side

    return Side(label, (text,), (None,))
