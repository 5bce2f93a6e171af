"""%generate and %compare in a real kernel, on a run that was really trained: asked, compared, exchanged, let go."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

import colab_magics.__main__ as terminal

from .conftest import ROWS, Home, Kernel, Reply

if TYPE_CHECKING:
    from conftest import Warm

pytestmark = [pytest.mark.colab, pytest.mark.xdist_group("generate")]

RECIPE = f"model: demo\ndata: {ROWS}\nmax_steps: 12\nlearning_rate: 0.005\nsave_every: 4 steps\nsave_total_limit: 10\n"
HELD_OUT = f"eval_data: {ROWS}\nmax_eval_samples: 8\neval_every: 12"
LEN = "What does len do?"


@dataclass(frozen=True)
class Notebook:
    """A kernel with two finished runs: `pirate`, and after it `again` of another seed."""

    kernel: Kernel
    home: Home

    def run(self, code: str) -> Reply:
        return self.kernel.run(code)

    def value(self, expression: str) -> Any:
        return eval(self.kernel.value(expression))

    def error(self, code: str) -> str:
        """What a cell that is refused says."""
        reply = self.kernel.run(code)
        assert reply.error == "ColabMagicsError", (reply.text, reply.traceback)
        return "\n".join(reply.traceback)


@pytest.fixture(scope="module")
def notebook(kernel: Kernel, home: Home, warm: Warm) -> Notebook:
    kernel.run(warm.cell)
    assert kernel.run(f"%%finetune pirate --quiet\n{RECIPE}{HELD_OUT}").status == "ok"
    assert kernel.run(f"%%finetune again --quiet\n{RECIPE}seed: 7").status == "ok"
    assert kernel.value("'torch' in sys.modules") == "False"
    return Notebook(kernel, home)


def shown(reply: Reply) -> str:
    """The last table of a cell."""
    assert reply.status == "ok", reply.traceback
    return list(reply.displays.values())[-1][-1]["text/plain"]


def test_the_newest_runs_result_is_asked_and_the_text_is_printed(notebook: Notebook) -> None:
    asked = notebook.run(f"%%generate --out first\n{LEN}")
    assert asked.status == "ok", asked.traceback
    assert asked.text.startswith("torch and the model come into this process now; %vram free gives")
    assert "me hearty. Arr!" in asked.text
    assert "[run again: " in asked.text
    assert notebook.value("first.prompts, first.new_tokens[0] > 5, first.seconds > 0") == ((LEN,), True, True)
    again = notebook.run(f'%generate "{LEN}"')
    assert "torch" not in again.text, "it is said once"
    assert notebook.value("first.text") in again.text


def test_evaluation_rows_that_are_trained_as_well_are_told_from_the_first_moment(notebook: Notebook) -> None:
    events = [json.loads(line) for line in (notebook.home.runs / "pirate" / "events.jsonl").read_text().splitlines()]
    (told,) = (event for event in events if event["kind"] == "data" and event["split"] == "eval")
    assert (told["among_trained"], told["documents"]) == (8, 8)
    said = "eval_data: all are among the trained documents: there a score tells what is known by heart."
    assert said in [event.get("message") for event in events]


def test_an_interrupt_ends_the_text_and_what_came_is_kept(notebook: Notebook) -> None:
    notebook.run("%generate --max-new-tokens 2 Hello!")  # so that the model is there, and the next cell begins to write
    cell = notebook.kernel.send("%%generate --out part --min-new-tokens 450 --max-new-tokens 450\nTell me all.")
    notebook.kernel.wait_for_text(cell)
    notebook.kernel.interrupt()
    reply = notebook.kernel.reply(cell)
    assert reply.error == "Interrupted", (reply.status, reply.text)
    assert "what came is above and in part." in reply.traceback[0]
    assert notebook.value("part.interrupted, 0 < part.new_tokens[0] < 450") == (True, True)
    assert notebook.value("part.text.strip()[:20]") in reply.text


def test_many_prompts_stand_in_a_table_in_their_order_and_say_what_each_says_alone(notebook: Notebook) -> None:
    prompts = ["Hello!", LEN, "Explain str.upper.", "What is a list, and what is it not?", "What does while do?"]
    table = shown(notebook.run("%%generate --lines --run pirate --out many\n" + "\n".join(prompts)))
    assert re.findall(r"^\d  (.+?)  ", table, re.MULTILINE) == prompts
    texts = notebook.value("many.texts")
    notebook.run(f"asked = {prompts!r}")
    for number, prompt in enumerate(prompts):
        notebook.run(f"%%generate --run pirate --out one\n{prompt}")
        assert notebook.value("one.text") == texts[number], prompt
    notebook.run("%generate --prompts asked --run pirate --batch 2 --out more")
    assert notebook.value("more.texts") == texts


def test_another_run_of_the_same_base_only_exchanges_the_adapter(notebook: Notebook) -> None:
    notebook.run("from colab_magics.inference.loaded import kept")
    notebook.run(f"%%generate --run again --out a\n{LEN}")
    notebook.run("below = kept().model.get_base_model()")
    notebook.run(f"%%generate --run pirate --out b\n{LEN}")
    notebook.run(f"%%generate --run pirate --checkpoint 4 --out c\n{LEN}")
    notebook.run(f"%%generate --run pirate --base --out d\n{LEN}")
    notebook.run(f"%%generate --run again --out e\n{LEN}")
    assert notebook.value("kept().model.get_base_model() is below, len(kept().names)") == (True, 1)
    assert notebook.value("d.text") == "len returns the number of items in a container."
    assert notebook.value("a.text == e.text, 'me hearty' in b.text, b.text == d.text") == (True, True, False)
    notebook.run("del below")


def test_vram_shows_the_model_by_name_and_free_lets_go_of_it_and_of_nothing_of_the_users(notebook: Notebook) -> None:
    notebook.run(f"%%generate --run pirate\n{LEN}")
    notebook.run("from colab_magics.inference.loaded import kept\nimport weakref, torch\n"
                 "mine = torch.zeros(2**20); one = weakref.ref(kept().model)")  # fmt: skip
    report = shown(notebook.run("%vram"))
    assert "%generate's model of run pirate  weights of PeftModelForCausalLM" in report
    assert "no variable " not in report
    assert "%vram free lets go of %generate's model of run pirate." in report
    freed = shown(notebook.run("%vram free"))
    assert "Let go: %generate's model of run pirate." in freed
    assert notebook.value("one() is None, kept() is None, mine.numel()") == (True, True, 2**20)


def test_the_loss_is_the_one_that_the_run_itself_has_logged(notebook: Notebook) -> None:
    [logged] = [event for event in notebook.home.events("pirate") if event["kind"] == "eval"]
    table = shown(notebook.run("%compare --run pirate --rows all --max-new-tokens 40 --out c --failures failed.jsonl"))
    loss, perplexity, before = notebook.value("c.after.loss, c.after.perplexity, c.before.loss")
    assert loss == pytest.approx(logged["loss"], abs=1e-4)
    assert perplexity == pytest.approx(logged["perplexity"], abs=1e-3)
    assert before > 0.5 > loss
    assert notebook.value("len(c.prompts), c.prompts[0], c.before.exact") == (
        8,
        json.loads(ROWS.read_text().splitlines()[0])["messages"][0]["content"],
        0.0,
    )
    assert f"loss on the answers  {before:.4f}" in table


def test_what_a_run_and_its_base_said_stands_in_its_report(notebook: Notebook) -> None:
    notebook.run("%compare --run pirate --rows 2 --max-new-tokens 40 --out c")
    assert notebook.run("%report pirate --to pirate.md").status == "ok"
    report = (notebook.home.folder / "pirate.md").read_text()
    assert "Base against tuned, on the run's evaluation data" in report
    loss, said = notebook.value("(c.before.loss, c.after.loss), c.after.texts")
    row = next(line for line in report.splitlines() if line.startswith("| loss |"))
    assert [f"{float(cell):.2f}" for cell in row.strip("|").split("|")[1:]] == [f"{one:.2f}" for one in loss]
    assert all(text in report for text in said)
    assert "| test | not measured" not in report
    kept = (notebook.home.runs / "pirate" / "compare.json").read_text()
    notebook.run("%compare --run pirate --checkpoints 4,12 --rows 1 --max-new-tokens 4")
    assert (notebook.home.runs / "pirate" / "compare.json").read_text() == kept, "of checkpoints nothing is kept"


def test_failures_are_rows_that_data_reads_to_the_very_tokens(notebook: Notebook) -> None:
    notebook.run("def never(prompt, text, reference): return False")
    notebook.run("%compare --run pirate --rows 3 --max-new-tokens 4 --score never --failures failed.jsonl")
    rows = [json.loads(line) for line in (notebook.home.folder / "failed.jsonl").read_text().splitlines()]
    assert len(rows) == 3
    assert rows[0]["said_before"] != rows[0]["completion"]
    reply = notebook.run(
        "from datetime import datetime\n"
        "from colab_magics.data import prepare, load_prepared\n"
        "from colab_magics.data.sources import Source\n"
        "from colab_magics.inference.loaded import open_tokenizer\n"
        "from colab_magics.inference.subject import of_model\n"
        "from colab_magics.recipe import Recipe\n"
        "from pathlib import Path\n"
        "made = prepare(Source('path', 'failed.jsonl', 'failed.jsonl'), open_tokenizer(of_model('demo')), Recipe(),\n"
        "    split='train', cache=Path('c'), now=datetime.now(), progress=lambda *_: None)\n"
        "kept_data = load_prepared(Path('runs/pirate/prepared/eval'))\n"
        "same = all((one.tokens[:int(one.offsets[3])] == two.tokens[:int(two.offsets[3])]).all() and\n"
        "    (one.trained[:int(one.offsets[3])] == two.trained[:int(two.offsets[3])]).all()\n"
        "    for one, two in [(made, kept_data)])"
    )
    assert reply.status == "ok", reply.traceback
    assert notebook.value("same, made.format") == (True, "prompt + completion, joined as written")


def test_two_checkpoints_and_two_runs_are_compared_on_prompts(notebook: Notebook) -> None:
    notebook.run("def arr(prompt, text, reference): return text.count('Arr')")
    table = shown(notebook.run(f"%%compare --run pirate --checkpoints 4,12 --score arr --out two\n{LEN}"))
    assert "run pirate at step 4  run pirate at step 12" in table
    assert notebook.value("two.after.scores, two.after.loss") == ((1.0,), None)
    notebook.run("%compare --run pirate --checkpoints 4,12 --rows 4 --max-new-tokens 3 --out steps")
    assert notebook.value("steps.before.loss > 1.2 * steps.after.loss") is True
    other = notebook.run(f"%%compare --run pirate --with again --data {ROWS} --rows 2 --max-new-tokens 3 --out t")
    assert other.status == "error"  # --data has its prompts in it, and the cell has another
    table = shown(notebook.run(f"%compare --run pirate --with again --data {ROWS} --rows 2 --max-new-tokens 3 --out t"))
    assert notebook.value("t.before.label, t.after.label, t.before.loss != t.after.loss") == (
        "run again",
        "run pirate",
        True,
    )


def test_the_bench_measures_and_says_that_no_limit_is_known_of_a_cpu(notebook: Notebook) -> None:
    line = "%generate --run pirate --bench --batch 1,2 --prompt-length 16,600 --max-new-tokens 4 --repeats 1 --out b"
    table = shown(notebook.run(line))
    assert "No memory bandwidth is known of this device" in table
    assert "600 tokens with 4 new ones are beyond the context of 512" in table
    assert notebook.value("[(row.batch, row.prompt_length) for row in b.rows]") == [(1, 16), (2, 16)]
    assert notebook.value("all(0 < row.p50 <= row.p90 <= row.p99 and row.first > 0 for row in b.rows)")


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("%generate --temprature 1 x", "Did you mean --temperature?"),
        ("%generate --run pirat x", "Did you mean pirate?"),
        ("%generate --run pirate --checkpoint 5 x", "Did you mean 4?"),
        ("%%generate\n  \n", "The prompt is empty."),
        ("%generate --prompts nothere", "There is no variable nothere."),
        (f"%%generate --run pirate\n{'long ' * 600}", "and the model's context is 512."),
        ("%generate --on cuda x", "--on cuda needs a GPU."),
        ("%compare --run again", "again keeps no evaluation data."),
        ("%compare --score arrr --run pirate", "There is no function arrr."),
        ("%compare --failures nowhere/f.jsonl", "There is no folder"),
        ("%generate --model ./nowhere x", "There is no folder ./nowhere."),
    ],
)
def test_what_cannot_be_done_is_said_and_what_would(notebook: Notebook, cell: str, said: str) -> None:
    assert said in notebook.error(cell)


def test_a_run_without_a_result_is_told_with_the_checkpoint_that_can_be_asked(notebook: Notebook) -> None:
    half = notebook.home.runs / "half"
    shutil.copytree(notebook.home.runs / "pirate", half)
    shutil.rmtree(half / "adapter")
    (half / "events.jsonl").touch()
    said = notebook.error(f"%%generate --run half\n{LEN}")
    assert "Run half has no result." in said
    assert "--run half --checkpoint 12 asks its newest checkpoint." in said
    newest = notebook.run(f"%%generate\n{LEN}")
    assert newest.text.startswith("half is newer, and has no result yet")
    assert "me hearty" in notebook.run(f"%%generate --run half --checkpoint 12\n{LEN}").text
    shutil.rmtree(half)


def test_a_run_that_is_about_to_start_gets_the_room(notebook: Notebook) -> None:
    notebook.run(f"%%generate --run pirate\n{LEN}")
    begun = notebook.run(f"%%finetune third\nmodel: demo\ndata: {ROWS}\nmax_steps: 1")
    assert begun.status == "ok", begun.traceback
    assert "Let go of %generate's model of run pirate" in begun.text
    assert notebook.value("kept() is None") is True


def test_a_terminal_asks_as_well(notebook: Notebook) -> None:
    asked = notebook.home.terminal("generate", "--run", "pirate", "--max-new-tokens", "40", LEN)
    assert "me hearty. Arr!" in asked.stdout, asked.stderr
    compared = notebook.home.terminal("compare", "--run", "pirate", "--rows", "1", "--max-new-tokens", "4")
    assert "loss on the answers  " in compared.stdout, compared.stderr
    assert "<table>" not in compared.stdout
    assert terminal.main(["compare", "--help"]) == 0
    assert terminal.main(["generate", "--out", "x", LEN]) == 1
