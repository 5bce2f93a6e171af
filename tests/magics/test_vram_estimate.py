"""`%vram estimate` as it is seen: its text, its figures, and what it says of bad input."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from colab_magics.errors import ColabMagicsError
from colab_magics.magics import vram_estimate
from colab_magics.magics.vram_devices import card
from colab_magics.magics.vram_estimate import estimate
from colab_magics.memory.traced import NotTraced
from colab_magics.session.table import load_table

from .conftest import ROWS, Home, Kernel

pytestmark = [pytest.mark.face, pytest.mark.colab, pytest.mark.xdist_group("vram")]

needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="a run needs torch")
GOLDEN = Path(__file__).parent / "golden"
QWEN3_4B = {
    "model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "vocab_size": 151_936, "hidden_size": 2560,
    "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8,
    "head_dim": 128, "max_position_embeddings": 40_960, "tie_word_embeddings": True, "hidden_act": "silu",
}  # fmt: skip


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Writes a folder with a config and nothing else, beside the notebook; gives its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLAB_MAGICS_CACHE", str(tmp_path / "cache"))

    def make(name: str = "./qwen3-4b", **changes: Any) -> str:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        config = {key: value for key, value in (QWEN3_4B | changes).items() if value is not None}
        (folder / "config.json").write_text(json.dumps(config))
        return name

    return make


def _told(line: str, root: Path) -> Any:
    return estimate(shlex.split(line), root)


def _text(found: Any) -> str:
    return str(found._repr_mimebundle_()["text/plain"])


# --- as it was looked at ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("fits", "--model ./qwen3-4b --method qlora --max-length 2048 --gpu T4 --quick"),
        (
            "does_not_fit",
            "--model ./qwen3-4b --method lora --batch 8 --max-length 4096 --gpu T4,24GB --compare --quick",
        ),
        ("inference", "--model ./qwen3-4b --inference --method qlora --gpu T4 --quick"),
    ],
)
def test_it_is_shown_as_it_was_looked_at(made, tmp_path, name, line):
    """Golden files; after a change that was looked at, write them with GOLDEN=write."""
    made()
    text = _text(_told(line, tmp_path)) + "\n"
    path = GOLDEN / f"vram_estimate_{name}.txt"
    if os.environ.get("GOLDEN") == "write":
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_of_a_name_from_a_stranger_nothing_is_html_or_ansi(made, tmp_path):
    name = made("./<script>alert(1)<\x1b[31m")
    bundle = _told(f"--model {shlex.quote(name)} --gpu T4 --quick", tmp_path)._repr_mimebundle_()
    assert "<script>" not in bundle["text/html"]
    assert "&lt;script&gt;" in bundle["text/html"]
    assert "\x1b" not in bundle["text/html"] + bundle["text/plain"]


def test_figures_are_bytes(made, tmp_path):
    found = _told(f"--model {made()} --method qlora --gpu T4,L4 --quick", tmp_path)
    told = found.to_dict()
    assert [one["device"]["name"] for one in told["devices"]] == ["Tesla T4 16 GB", "L4 24 GB"]
    first = told["devices"][0]
    assert first["peak"] == found.predictions[0].parts.peak
    assert first["parts"]["weights"] / 2**30 == pytest.approx(2.471, rel=0.005)
    assert json.dumps(told), "plain values alone"


def test_the_way_out_is_a_recipe_line_and_speaks_of_no_documents_that_are_not_there(made, tmp_path):
    text = _text(_told(f"--model {made()} --method lora --max-length 2048 --gpu T4 --batch 16 --quick", tmp_path))
    assert "does not fit (red)" in text
    assert "On a Tesla T4 16 GB it fits with per_device_train_batch_size: " in text
    text = _text(_told(f"--model {made()} --max-length 8192 --gpu 5GB --quick", tmp_path))
    assert "On a GPU of 5GB it fits with max_length: " in text
    assert "it cuts" not in text


def test_nothing_that_would_help_is_said(made, tmp_path):
    assert "nothing that a recipe can say makes it fit" in _text(
        _told(f"--model {made()} --gpu 1.1GB --quick", tmp_path)
    )


def test_what_others_hold_is_named_before_the_recipe_is_changed(made, tmp_path, monkeypatch):
    here = replace(card("T4", load_table()), free=2**30)
    monkeypatch.setattr(vram_estimate, "_here", lambda *_: here)
    text = _text(_told(f"--model {made()} --method qlora --max-length 2048 --quick", tmp_path))
    assert "it fits once the 13.6 GiB held there is given back (%vram says by whom)" in text


def test_a_model_is_known_by_its_id_or_its_folder_alone(made, tmp_path):
    name = made()
    by_option = _told(f"--model {name} --gpu T4 --quick", tmp_path)
    assert _told(f"{name} --gpu T4 --quick", tmp_path).to_dict() == by_option.to_dict()


def test_a_recipe_without_data_is_a_model(made, tmp_path):
    found = estimate(["--gpu", "T4", "--quick"], tmp_path, f"model: {made()}\nmethod: qlora\n")
    assert "are assumed" in _text(found)


def test_a_line_may_name_a_variable(made, tmp_path):
    found = estimate(["--model", "{mid}", "--gpu", "T4", "--quick"], tmp_path, None, {"mid": made()})
    assert found.recipe.model == made()


def test_a_checkpoint_that_cannot_be_trained_is_refused_and_may_generate(made, tmp_path):
    name = made(quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(ColabMagicsError, match="quantised with gptq"):
        _told(f"--model {name} --gpu T4 --quick", tmp_path)
    assert _told(f"--model {name} --inference --gpu T4 --quick", tmp_path).rows


def test_generating_is_not_compared_with_trainers(made, tmp_path):
    with pytest.raises(ColabMagicsError, match="--compare goes with training"):
        _told(f"--model {made()} --inference --compare --gpu T4 --quick", tmp_path)


def test_a_cap_counts(made, tmp_path):
    model = made()
    assert (
        _told(f"--model {model} --method lora --max-memory 4GB --gpu T4 --quick", tmp_path).predictions[0].fit.colour
        == "red"
    )


def test_a_cap_that_decides_is_what_the_verdict_names_and_its_two_parts_are_told(made, tmp_path):
    text = _text(_told(f"--model {made()} --method lora --max-memory 4GiB --gpu T4 --quick", tmp_path))
    assert "of the 4.1 GiB that max_memory leaves (4.0 GiB + 133.1 MiB that CUDA itself takes) on a Tesla T4" in text
    assert "max_memory 4.0 GiB, for tensors, and the context" in text
    ample = _text(_told(f"--model {made()} --method lora --max-memory 40GiB --gpu T4 --quick", tmp_path))
    assert "that max_memory leaves" not in ample


def test_without_a_trace_the_reason_is_said_and_the_formula_answers(made, tmp_path, monkeypatch):
    def untraced(*_: object, **__: object) -> None:
        raise NotTraced("torch is not installed")

    monkeypatch.setattr(vram_estimate, "traces", untraced)
    text = _text(_told(f"--model {made()} --gpu T4", tmp_path))
    assert "It could not be traced: torch is not installed." in text
    with pytest.raises(ColabMagicsError, match="not known by formula") as raised:
        _told(f"--model {made('./odd', model_type='mamba')} --gpu T4", tmp_path)
    assert "torch is not installed" in raised.value.why


def test_a_comparison_is_not_traced_and_its_reference_is_counted(made, tmp_path, monkeypatch):
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("the trace would be of another loop")

    monkeypatch.setattr(vram_estimate, "traces", refuse)
    of = f"--model {made()} --max-length 512 --batch 1 --gpu H100 --precision bf16 --adapter full"
    alone, beside = (_told(f"{of} --method {method}", tmp_path) for method in ("sft --quick", "dpo"))
    assert "TRL compares in its own" in _text(beside)
    weights = [found.predictions[0].parts.weights for found in (alone, beside)]
    assert weights[1] == pytest.approx(1.5 * weights[0]), "a second model, in half of the first one's bytes"


def test_generating_asks_for_no_trace_where_the_sizes_are_known(made, tmp_path, monkeypatch):
    def never(*_: object, **__: object) -> None:
        raise AssertionError("it was traced")

    monkeypatch.setattr(vram_estimate, "traces", never)
    found = _told(f"--model {made()} --inference --gpu T4 --batch 1e1 --context 2048", tmp_path)
    assert [(row.batch, row.context) for row in found.rows] == [(10, 2048)]


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "facts"),
    [
        ("--model ./none", "There is no folder ./none"),
        ("--model MODEL --gpu H200", "Did you mean H100?"),
        ("--model MODEL --gpu 0.5GB", "too small"),
        ("--model MODEL --max-length 0", "max_length: 0 cannot be used"),
        ("--model MODEL --max-length 99999999999999", "cannot be used"),
        ("--model MODEL --max-length 50000", "longer than the model's 40960 positions"),
        ("--model MODEL --max-length many", "'many' cannot be used"),
        ("--model MODEL --batch 0", "per_device_train_batch_size: 0"),
        ("--model MODEL --batch x", "'x' cannot be used"),
        ("--model MODEL --method magic", "method: 'magic'"),
        ("--model MODEL --optim adamm", "optim: 'adamm'"),
        ("--model MODEL --precision bf16 --gpu T4", "bf16 does not work"),
        ("--model MODEL --target-modules q_prj", "Did you mean q_proj?"),
        ("--model MODEL --max-memory lots", "max_memory"),
        ("--model MODEL run", "There are run and --model"),
        ("--model MODEL --context 5", "--context goes with --inference"),
        ("--model MODEL --inference --context 99999999", "longer than the model's"),
        ("--model MODEL --optimizer opt", "--optimizer goes with a module"),
        ("net --batch x --keep a", "net is no variable that holds one"),
        ("run", "There is no run"),
        ("run --r 8", "--r goes with a model"),
        ("run --batch 8", "--batch goes with a model"),
        ("", "There is no run"),
        ("--root ./nowhere", "There is no run in"),
    ],
)
def test_bad_input_is_a_short_sentence_and_changes_nothing(made, tmp_path, line, facts):
    line = line.replace("MODEL", made())
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ColabMagicsError) as raised:
        _told(f"{line} --quick", tmp_path / "runs")
    lines = raised.value.lines()
    assert facts in "\n".join(lines)
    assert 3 <= len(lines) <= 6
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "changes",
    [{"hidden_size": None}, {"hidden_size": "64"}, {"num_hidden_layers": -1}, {"vocab_size": 10**40},
     {"max_position_embeddings": -1}, {"max_position_embeddings": True}],
)  # fmt: skip
def test_a_config_that_is_wrong(made, tmp_path, changes):
    with pytest.raises(ColabMagicsError, match="The config does not say"):
        _told(f"--model {made(**changes)} --quick --gpu T4", tmp_path)


@pytest.mark.parametrize("text_config", ["words", [1], 5, {}, {"hidden_size": 3}])
def test_a_nested_part_that_is_none_is_passed_over(made, tmp_path, text_config):
    assert _told(f"--model {made(text_config=text_config)} --quick --gpu T4", tmp_path).predictions


# --- in a kernel and in a terminal ------------------------------------------------------------------------------------


def test_in_a_kernel_it_is_shown_once_gives_figures_and_imports_no_torch(kernel: Kernel):
    reply = kernel.run("x = %vram estimate --model demo --gpu T4 --quick")
    assert reply.status == "ok", reply.traceback
    [page] = [frame for frames in reply.displays.values() for frame in frames]
    assert page["text/plain"].startswith("demo: lora, fp16")
    assert "It fits (green)" in page["text/html"]
    assert int(kernel.value("x.to_dict()['devices'][0]['peak']")) > 2**20
    heavy = "[name for name in ('torch', 'transformers', 'peft') if name in __import__('sys').modules]"
    assert kernel.value(heavy) == "[]"
    reply = kernel.run("%vram estimate --model demo --gpu T5 --quick")
    assert (reply.status, reply.error) == ("error", "ColabMagicsError")
    assert "Traceback" not in "\n".join(reply.traceback)
    helped = kernel.run("%vram estimate --help")
    assert "--inference" in helped.text + str(helped.displays)


def test_in_a_terminal(home: Home):
    done = home.terminal("vram", "estimate", "--model", "demo", "--gpu", "T4", "--quick")
    assert done.returncode == 0, done.stderr
    assert "It fits (green)" in done.stdout
    assert done.stderr == ""
    done = home.terminal("vram", "estimate", "--model", "demo", "--gpuu", "T4")
    assert done.returncode != 0
    assert "Did you mean --gpu?" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    helped = home.terminal("vram", "estimate", "--help")
    assert helped.stdout.startswith("%vram estimate --model ID")


# --- of a run, and of a recipe ----------------------------------------------------------------------------------------

RECIPE = "model: demo\ndata: {rows}\nmax_steps: 2\neffective_batch_size: 2\nmax_train_samples: 8\nmax_length: 64\n"


@needs_torch
def test_of_a_run_and_of_a_recipe_with_its_data(kernel: Kernel, home: Home, warm: Any):
    kernel.run(warm.cell)
    recipe = RECIPE.format(rows=ROWS)
    assert kernel.run(f"%%finetune short\n{recipe}").status == "ok"
    before = sorted(path for path in home.runs.rglob("*"))
    reply = kernel.run("x = %vram estimate short --quick")
    assert reply.status == "ok", reply.traceback
    assert (
        kernel.value("(x.predictions[0].device.kind, x.predictions[0].setup.length <= 64, x.seen)")
        == "('cpu', True, None)"
    )
    reply = kernel.run("x = %vram estimate short --gpu T4 --quick")
    assert kernel.value("x.predictions[0].device.name") == "'Tesla T4 16 GB'"
    reply = kernel.run(f"%%vram estimate --quick --gpu T4\n{recipe}")
    assert reply.status == "ok", reply.traceback
    shown = "".join(frame["text/plain"] for frames in reply.displays.values() for frame in frames)
    assert shown.startswith("demo: lora, fp16, ")
    assert "are assumed" not in shown, "there is data, and its lengths count"
    reply = kernel.run("%vram estimate short --r 8")
    assert "--r goes with a model" in "".join(reply.traceback)
    assert sorted(path for path in home.runs.rglob("*")) == before, "no run was made or changed"


# --- a module of the notebook -----------------------------------------------------------------------------------------


def _of_module(forward: Callable[..., Any], line: str, root: Path, **others: Any) -> Any:
    import torch

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.nn.Linear(64, 64)

        def forward(self, x: torch.Tensor) -> Any:
            return forward(self, x)

    return estimate(shlex.split(line), root, None, {"net": Net(), "x": torch.rand(8, 64), **others})


@needs_torch
def test_a_batch_of_another_shape_is_a_sentence(tmp_path):
    import torch

    with pytest.raises(ColabMagicsError, match="net cannot be called with y") as raised:
        _of_module(lambda self, x: self.inner(x), "net --batch y", tmp_path, y=torch.rand(8, 63))
    assert "[8, 63]" in raised.value.why


@needs_torch
def test_without_activations_nothing_is_said_to_fit(tmp_path, caplog):
    def by_numbers(self: Any, x: Any) -> Any:
        out = self.inner(x)
        return out if out.sum().item() > 0 else -out

    found = _of_module(by_numbers, "net --batch x", tmp_path)
    text = _text(found)
    assert "could not be traced" in text
    assert "at least " in text
    assert "not known: activations are missing" in text
    assert not any(line.split()[-1] == "fits" for line in text.splitlines() if line.split())
    assert {one["verdict"] for one in found.to_dict()["cards"]} == {None}
    assert not caplog.records, "torch's own log is no answer to anybody"


@needs_torch
def test_a_run_of_the_same_name_is_meant_unless_there_is_an_input(tmp_path):
    (tmp_path / "net").mkdir()
    with pytest.raises(ColabMagicsError):  # the folder holds no run
        _of_module(lambda self, x: self.inner(x), "net", tmp_path)
    assert _of_module(lambda self, x: self.inner(x), "net --batch x", tmp_path).parameters == 64 * 65


def test_of_a_full_model_copies_are_a_line_and_where_paged_states_are_is_said(made, tmp_path):
    short, long = (
        _told(f"--model {made()} --method full --gpu T4 --quick --max-length {length}", tmp_path)
        for length in (64, 512)
    )
    text = _text(short)
    assert "16-bit copies of the weights  7.5 GiB" in text
    assert "shorter texts do not change that" in text
    assert "optimizer states              0 bytes    paged_adamw_8bit, the rest in managed memory" in text
    assert "Optimizer: paged_adamw_8bit (AdamW's two fp32 states do not fit beside the weights)." in text
    assert "Its states, about 7.6 GiB, are in managed memory" in text
    assert short.predictions[0].parts.copies == long.predictions[0].parts.copies
    assert short.predictions[0].parts.activations < 2**25


@pytest.mark.parametrize("card", ["M4000", "P100"])
def test_of_a_card_that_torch_has_no_kernels_for_it_is_said_in_the_verdict(made, tmp_path, card):
    text = _text(_told(f"--model {made()} --method qlora --gpu {card} --quick", tmp_path))
    assert text.splitlines()[1].startswith("Today's torch has no kernels for a ")
    text = _text(_told(f"--model {made()} --method qlora --gpu {card} --inference", tmp_path))
    assert text.count("today's torch does not run on it") == 4


@pytest.mark.parametrize("option", ["--max-length 512", "--r 64", "--optim sgd"])
def test_what_is_of_no_account_to_generating_is_refused(made, tmp_path, option):
    with pytest.raises(ColabMagicsError, match="is of no account with --inference"):
        _told(f"--model {made()} --inference {option} --gpu T4", tmp_path)
