"""`%report`: everything from the run's folder, nothing invented, one file that anybody can open."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from panel.cases import HOSTILE
from panel.events_of import event

from colab_magics.errors import ColabMagicsError
from colab_magics.magics.report import perform
from colab_magics.magics.report_html import html
from colab_magics.magics.report_line import Line, read
from colab_magics.magics.report_markdown import markdown
from colab_magics.magics.report_next import advice
from colab_magics.magics.report_sections import report_of
from colab_magics.magics.report_stages import stages

from .reported import CASES, COMPARED, EXPORTED, RECIPE, begun, facts, finished, hostile_run, interrupted, written

pytestmark = [pytest.mark.colab, pytest.mark.face]

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("draw", "ending"), [(html, "html"), (markdown, "md")])
def test_reports_are_as_they_were_looked_at(name: str, draw: Any, ending: str, tmp_path: Path) -> None:
    """Golden files; after a change that was looked at in a browser, write them with GOLDEN=write."""
    made = draw(report_of(facts(CASES[name](tmp_path))))
    path = GOLDEN / f"report-{name}.{ending}"
    if os.environ.get("GOLDEN") == "write":
        path.parent.mkdir(exist_ok=True)
        path.write_text(made, encoding="utf-8")
    assert made == path.read_text(encoding="utf-8")


class Tags(HTMLParser):
    """Which tags a page opens, with which attributes, and whether each is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()
        self.open: list[str] = []
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in ("meta", "path", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag != "path":
            assert self.open.pop() == tag


def test_nothing_in_a_log_an_answer_or_a_recipe_becomes_a_tag_or_a_terminal_command(tmp_path: Path) -> None:
    report = report_of(facts(hostile_run(tmp_path)))
    page, tags = html(report), Tags()
    tags.feed(page)
    assert tags.open == []
    assert not {"script", "img", "iframe", "b"} & tags.seen
    assert not any(name.startswith("on") for name in tags.attributes)
    assert "\x1b" not in page
    told = markdown(report)
    assert "\x1b" not in told
    outside = re.sub(r"^(`{3,})\w*\n.*?^\1$", "", told, flags=re.DOTALL | re.MULTILINE)
    assert "<script" not in re.sub(r"\\.", "", outside)


@pytest.mark.parametrize("name", CASES)
def test_a_page_holds_no_script_and_nothing_from_the_network(name: str, tmp_path: Path) -> None:
    page = html(report_of(facts(CASES[name](tmp_path))))
    assert not re.search(r"<script|src=|url\(|@import|https?:", page)
    assert set(re.findall(r'href="(.)', page)) == {"#"}
    for anchor in re.findall(r'href="#([^"]+)"', page):
        assert f'id="{anchor}"' in page


def test_secrets_in_a_log_or_an_answer_do_not_leave(tmp_path: Path) -> None:
    token = "hf_" + "T" * 34
    said = {**COMPARED, "rows": [{"prompt": token, "tuned": f"my token is {token}"}]}
    run = written(tmp_path, [*finished(), event("warning", at=726, message=token)], compared=said)
    report = report_of(facts(run))
    for made in (html(report), markdown(report)):
        assert token not in made
        assert "hf_***" in made


def section(run: Any, title: str) -> str:
    """One section, as its Markdown says it."""
    told = markdown(report_of(facts(run)))
    return re.split(rf"^## {title}$", told, flags=re.MULTILINE)[1].partition("\n## ")[0]


def test_what_was_not_measured_says_so_and_how_it_would_be(tmp_path: Path) -> None:
    run = written(tmp_path, [one for one in finished() if one["kind"] not in ("eval", "memory", "checkpoint")])
    assert "was not measured: %compare --run kwanzaa measures it" in section(run, "Evaluation")
    assert "eval\\_data in the recipe" in section(run, "Evaluation")
    assert "%compare --run kwanzaa asks them" in section(run, "Before and after")
    assert "| merge | not measured: %export kwanzaa --merge |" in section(run, "Time by stage")
    assert "| test | not measured: %compare --run kwanzaa |" in section(run, "Time by stage")
    assert "No checkpoint was saved." in section(run, "Checkpoints and interruptions")
    assert "Nothing yet: %export kwanzaa" in section(run, "What was delivered")


def test_a_run_without_evaluation_data_is_told_to_be_compared_by_a_line_that_works(tmp_path: Path) -> None:
    events = [one for one in finished() if (one["kind"], one.get("split")) != ("data", "eval")]
    run = written(tmp_path, events, recipe=replace(RECIPE, eval_data=None))
    assert "was not measured: %compare --run kwanzaa --data FILE measures it" in section(run, "Evaluation")
    assert "Base and tuned were not compared: %compare --run kwanzaa --data FILE" in section(run, "What to do next")


def test_how_fast_it_answers_is_told_as_it_was_measured(tmp_path: Path) -> None:
    run = written(tmp_path, finished())
    assert "Not measured: %generate --run kwanzaa --bench measures it" in section(run, "Speed of its answers")
    row = {"batch": 4, "prompt_length": 1024, "new_tokens": 64, "first": 0.1324, "decode": 236.41,
           "p50": 0.0156, "p90": 0.0227, "p99": 0.0309}  # fmt: skip
    bench = {"device": "Tesla T4", "dtype": "float16", "repeats": 3, "step": 4, "rows": [row, {"batch": HOSTILE}, 3]}
    (run.folder / "bench.json").write_text(json.dumps(bench))
    said = section(run, "Speed of its answers")
    assert "On Tesla T4, float16" in said
    assert "| 4 | 1,024 | 236.4 | 132.4 ms | 15.6 ms | 22.7 ms | 30.9 ms |" in said
    assert "Medians of 3 after a warm-up; 64 new tokens each" in said
    assert "Measured at step 4; it is at step 120 now." in said


def test_prompts_that_were_tried_stand_before_the_rows_and_leave_their_figures(tmp_path: Path) -> None:
    run = written(tmp_path, finished(), compared=COMPARED)
    figures = section(run, "Evaluation")
    asked = {"on": "prompts", "rows": [{"prompt": "Hm?", "base": "No.", "tuned": "Yes."}], "base": {}, "tuned": {}}
    (run.folder / "compare-prompts.json").write_text(json.dumps(asked))
    assert section(run, "Evaluation") == figures
    assert section(run, "Before and after").lstrip().startswith("```\nHm?\n")
    assert "Unity: to strive for it" in section(run, "Before and after")
    (run.folder / "compare.json").unlink()
    assert "Base against tuned was not measured" in section(run, "Evaluation")
    assert "Hm?" in section(run, "Before and after")


def test_on_a_cpu_no_peak_is_claimed(tmp_path: Path) -> None:
    plain = [{key: value for key, value in one.items() if key not in ("peak", "allocated", "reserved", "load_peak")}
             for one in finished()]  # fmt: skip
    told = section(written(tmp_path, plain), "Memory")
    assert "| peak of a step | 5.2 GiB | not measured |" in told
    assert "this was none" in told


def test_stages_share_out_the_time_between_events_and_add_up() -> None:
    found = {one.name: one.seconds for one in stages(finished(), EXPORTED, 41.0)}
    assert found["start the worker"] == pytest.approx(12)
    assert found["load data"] == pytest.approx(2)
    assert found["format and tokenise"] == pytest.approx(1.5)
    assert found["download the model"] == pytest.approx(24)
    assert found["load model"] == pytest.approx(22)
    assert found["train"] == pytest.approx(120 * 0.98 * 6)
    assert found["evaluate"] == pytest.approx(12 * 0.9)
    assert found["save"] == pytest.approx(4 * 0.018)
    assert (found["merge"], found["test"]) == (92.5, 41.0)
    # from the worker's start to its last event, and what came after it
    assert sum(seconds or 0.0 for seconds in found.values()) == pytest.approx(62 + 725 + 92.5 + 41.0)


def test_every_attempt_is_told_with_what_it_lost(tmp_path: Path) -> None:
    told = section(written(tmp_path, interrupted()), "Checkpoints and interruptions")
    assert "| 1 | 2026-11-21 05:58 UTC | the beginning | step 55 | without a word" in told
    assert "| step 40 (resumed) | step 70 | stopped |" in told
    assert "15 steps had to be taken again." in told


def test_a_step_that_was_taken_again_is_counted_once_in_its_speed(tmp_path: Path) -> None:
    known = facts(written(tmp_path, interrupted()))
    assert [one["step"] for one in known.steps] == list(range(1, 71))


def test_predicted_and_used_money_stand_side_by_side(tmp_path: Path) -> None:
    # $0.20 an hour: 740 s were predicted, 787 s were used
    assert "Predicted for the training: $0.04 ($0.03 to $0.07). Used in all: $0.04." in section(
        written(tmp_path, finished()), "Cost"
    )


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda told: told, "has risen to"),
        (lambda told: [one for one in told if one["kind"] != "eval"], "add eval_data"),
        (lambda told: [*told[:-1], {**told[-1], "reason": "stopped", "step": 60}], "%checkpoint resume kwanzaa"),
        (lambda told: told, "2 of 107 documents (2%) lose their end at max_length 1024: the longest has 1,380"),
        (lambda told: told, "2 rows were dropped"),
        (lambda told: told, "took at most 4.9 GiB of 15.0 GiB"),
        (lambda told: told, "No copy of it is anywhere else"),
    ],
)
def test_advice_names_the_fact_that_it_is_from(change: Any, expected: str, tmp_path: Path) -> None:
    found = advice(facts(written(tmp_path, change(finished()))))
    assert any(expected in one for one in found), found


def test_a_loss_that_still_falls_asks_for_more_and_one_that_does_not_is_left_alone(tmp_path: Path) -> None:
    def trained(name: str, rate: float) -> list[str]:
        told = [event("step", at=step, step=step, total_steps=80, loss=2.0 - rate * step) for step in range(1, 81)]
        end = event("finished", at=99, step=80, total_steps=80, reason="completed", path="adapter")
        return advice(facts(written(tmp_path, [*begun(), *told, end], name=name)))

    assert any("still falling" in one for one in trained("falls", 0.01))
    assert not any("still falling" in one for one in trained("flat", 0.0001))


def test_the_best_checkpoint_is_offered_only_where_there_is_one(tmp_path: Path) -> None:
    best = min((one for one in finished() if one["kind"] == "eval"), key=lambda one: one["loss"])["step"]
    held = advice(facts(written(tmp_path / "held", finished())))
    assert any(f"--checkpoint {best} delivers that one" in one for one in held)
    without = [one for one in finished() if one.get("kind") != "checkpoint" or one["step"] != best]
    assert not any("delivers that one" in one for one in advice(facts(written(tmp_path / "without", without))))


def test_both_forms_are_written_and_an_earlier_report_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "runs", finished())
    for _ in range(2):
        shown = perform(Line(), tmp_path / "runs", in_kernel=True)
    assert sorted(path.name for path in tmp_path.glob("kwanzaa*")) == ["kwanzaa-report.html", "kwanzaa-report.md"]
    assert shown["text/plain"].splitlines()[0] == f"The report of kwanzaa: {tmp_path / 'kwanzaa-report.html'}"
    assert 'href="kwanzaa-report.html" download' in shown["text/html"]
    assert perform(read(["kwanzaa", "--to", "r.md"]), tmp_path / "runs")["text/plain"].endswith("r.md")


def test_a_file_of_the_users_is_never_overwritten(tmp_path: Path) -> None:
    written(tmp_path / "runs", finished())
    (tmp_path / "thesis.md").write_text("mine")
    (tmp_path / "link.md").symlink_to(tmp_path / "thesis.md")
    for name in ("thesis.md", "link.md"):
        with pytest.raises(ColabMagicsError, match="is no report of ours"):
            perform(Line(to=str(tmp_path / name)), tmp_path / "runs")
    assert (tmp_path / "thesis.md").read_text() == "mine"
    with pytest.raises(ColabMagicsError, match="There is no folder"):
        perform(Line(to=str(tmp_path / "drive" / "r.html")), tmp_path / "runs")


def test_what_others_wrote_into_the_folder_is_read_with_care(tmp_path: Path) -> None:
    for name, text in (("torn", '{"rows": [{'), ("list", "[1, 2]"), ("deep", "[" * 100_000), ("odd", '{"rows": 3}')):
        run = written(tmp_path, finished(), name=name)
        (run.folder / "compare.json").write_text(text)
        (run.folder / "exports.jsonl").write_text('{"what"\n3\n' + json.dumps(EXPORTED[0]) + "\n")
        assert "merged" in markdown(report_of(facts(run)))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--too", "x.md"], "Did you mean --to?"),
        (["--to"], "--to needs a value"),
        (["--to", "x.pdf"], "ends in neither .html nor .md"),
        (["a", "b"], "takes one run"),
    ],
)
def test_a_line_that_cannot_be_read_is_explained(words: list[str], said: str) -> None:
    with pytest.raises(ColabMagicsError) as raised:
        read(words)
    assert said in str(raised.value)
