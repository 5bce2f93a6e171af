"""`%checkpoint verify`, `prune`, `pin`, `unpin` and `show`."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from colab_magics import worker
from colab_magics.checkpoints.commit import commit
from colab_magics.checkpoints.files import Disk
from colab_magics.checkpoints.manifest import Manifest
from colab_magics.errors import ColabMagicsError
from colab_magics.magics.checkpoint_commands import perform
from colab_magics.magics.checkpoint_line import read_line
from colab_magics.magics.checkpoint_upkeep import prune
from colab_magics.recipe import Recipe

from .checkpointed import RUN_ID, Left, flip, tree, truncate

pytestmark = [pytest.mark.colab, pytest.mark.face]


@pytest.fixture
def left(tmp_path: Path) -> Left:
    return Left(tmp_path)


def do(left: Left, line: str) -> list[str]:
    """Every line that the command shows."""
    lines: list[str] = []
    end = perform(read_line(line), left.root, said=lines.append)["text/plain"]
    return [*lines, *end.splitlines()]


def steps(left: Left) -> list[str]:
    return sorted(path.name for path in left.run.checkpoints.iterdir())


def refused(left: Left, line: str) -> list[str]:
    """What is said of a command that must change nothing."""
    before = tree(left.root)
    with pytest.raises(ColabMagicsError) as raised:
        do(left, line)
    assert tree(left.root) == before
    return raised.value.lines()


# --- verify ----------------------------------------------------------------------------------------------------------


def test_verify_says_that_all_are_as_expected_and_that_no_byte_was_hashed(left: Left) -> None:
    left.save(20)
    left.save(40)
    assert do(left, "verify") == [
        "00000040-a1  sizes agree, 1.4 KiB",
        "00000020-a1  sizes agree, 1.4 KiB",
        "All 2 checkpoints of kwanzaa are as expected: names, sizes and manifests agree.",
        "No byte was hashed: %checkpoint verify kwanzaa --full does that.",
    ]
    assert do(left, "verify --full")[-1] == (
        "All 2 checkpoints of kwanzaa are whole: every byte is as it was committed."
    )


def test_verify_names_a_truncated_file(left: Left) -> None:
    left.save(20)
    truncate(left.save(40) / "optimizer.safetensors")
    assert do(left, "verify") == [
        "00000040-a1  broken: optimizer.safetensors has 428 bytes instead of 856",
        "00000020-a1  sizes agree, 1.4 KiB",
        "Warning: of 2 checkpoints of kwanzaa 1 is broken.",
        "A resume skips what is broken, keeps it aside, and uses step 20.",
        "No byte was hashed: %checkpoint verify kwanzaa --full does that.",
    ]


def test_a_flipped_bit_is_found_by_full_alone_and_its_file_is_named(left: Left) -> None:
    left.save(20)
    flip(left.save(40) / "adapter_model.safetensors")
    assert "broken" not in "".join(do(left, "verify"))
    lines = do(left, "verify --full")
    assert lines[0] == "00000040-a1  broken: adapter_model.safetensors was altered"
    assert lines[-1].endswith("uses step 20.")


def test_verify_fails_where_nothing_can_be_used_and_names_each_reason(left: Left) -> None:
    flip(left.save(20) / "state.json")
    (left.save(40) / "state.json").unlink()
    assert refused(left, "verify --full") == [
        "No checkpoint of kwanzaa can be used.",
        "Each one differs from what was committed.",
        "  step 40: state.json is missing",
        "  step 20: state.json was altered",
        "→ %checkpoint fetch kwanzaa brings one from the replica, if there is one.",
    ]


def test_verify_looks_at_the_prepared_data_too(left: Left) -> None:
    left.save(20)
    for split in ("train", "eval"):
        (left.folder / "prepared").mkdir(exist_ok=True)
        commit(left.folder / "prepared" / split, {"tokens.npy": [b"tokens"]}, Manifest("data", RUN_ID, {}))
    flip(left.folder / "prepared" / "eval" / "tokens.npy")
    lines = do(left, "verify --full")
    assert "prepared data (train)  whole" in lines
    assert "prepared data (eval)  broken: tokens.npy was altered" in lines


def test_verify_of_a_run_that_saved_nothing_is_an_error(left: Left) -> None:
    assert refused(left, "verify") == [
        "kwanzaa has no checkpoint.",
        "It ended before it saved one.",
        "→ %checkpoint list shows another run by its name.",
    ]


# --- prune -----------------------------------------------------------------------------------------------------------


def test_prune_keeps_as_many_as_the_recipe_says(tmp_path: Path) -> None:
    left = Left(tmp_path, recipe=Recipe(model="demo", data="rows.jsonl", save_total_limit=3))
    for step in (20, 40, 60, 80, 100):
        left.save(step)
    assert do(left, "prune") == [
        "step 20  1.4 KiB",
        "step 40  1.4 KiB",
        "Deleted 2 checkpoints, 2.7 KiB; kwanzaa keeps 3.",
    ]
    assert steps(left) == ["00000060-a1", "00000080-a1", "00000100-a1"]
    assert do(left, "prune") == ["Nothing to delete: kwanzaa keeps 3 checkpoints."]


def test_prune_never_deletes_the_best_the_pinned_the_confirmed_the_verified_and_the_broken(left: Left) -> None:
    left.save(10)
    left.save(20, eval_loss=1.0)  # the best
    left.save(30)  # pinned
    left.save(40)  # the newest confirmed
    left.save(50)
    truncate(left.save(60) / "state.json")  # torn
    left.save(70)  # the newest of which every byte is right
    flip(left.save(80) / "state.json")  # looks right
    left.copied(10, "confirmed")
    left.copied(40, "confirmed")
    left.copied(50, "handed over")
    do(left, "pin 30")
    do(left, "prune --keep 1")
    assert [name[6:8] for name in steps(left)] == ["20", "30", "40", "60", "70", "80"]


def test_a_dry_run_says_what_would_go_and_deletes_nothing(left: Left) -> None:
    for step in (20, 40, 60):
        left.save(step)
    before = tree(left.root)
    assert do(left, "prune --keep 1 --dry-run") == [
        "step 20  1.4 KiB",
        "step 40  1.4 KiB",
        "Would delete 2 checkpoints, 2.7 KiB; kwanzaa keeps 1.",
    ]
    assert tree(left.root) == before


def test_prune_leaves_the_checkpoints_of_a_living_run_to_its_worker(left: Left) -> None:
    for step in (20, 40, 60):
        left.save(step)
    lock = worker.hold_lock(left.folder)
    assert lock is not None
    assert refused(left, "prune --keep 1")[:2] == [
        "kwanzaa is being trained, and its worker prunes by itself.",
        "Two that delete at once could delete what the other has just counted on.",
    ]
    assert do(left, "prune --keep 1 --dry-run")[-1].startswith("Would delete 2")
    os.close(lock)


def test_prune_deletes_nothing_where_no_checkpoint_is_whole(left: Left) -> None:
    for step in (20, 40, 60):
        flip(left.save(step) / "state.json")
    assert refused(left, "prune --keep 1 --dry-run")[0] == "No checkpoint of kwanzaa is whole, so none is deleted."


def test_prune_clears_what_a_commit_and_a_deletion_that_were_cut_short_left(left: Left) -> None:
    left.save(20)
    shutil.copytree(left.save(40), left.run.checkpoints / ".staging-00000060-a1-abcd0000")
    shutil.copytree(left.run.checkpoints / "00000020-a1", left.run.checkpoints / ".deleting-00000010-a1-abcd0000")
    do(left, "prune")
    assert steps(left) == ["00000020-a1", "00000040-a1"]


class KeepsStep20(Disk):
    """A disk that moves everything but one checkpoint."""

    def rename(self, old: Path, new: Path) -> None:
        if old.name == "00000020-a1":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        super().rename(old, new)


def test_a_deletion_that_fails_is_a_warning_and_the_others_are_deleted(left: Left) -> None:
    for step in (10, 20, 30, 40):
        left.save(step)
    assert prune(left.run, keep=1, dry_run=False, disk=KeepsStep20()).splitlines() == [
        "step 10  1.4 KiB",
        "Warning: step 20 could not be deleted: Input/output error.",
        "step 30  1.4 KiB",
        "Deleted 2 checkpoints, 2.7 KiB; kwanzaa keeps 2.",
    ]
    assert steps(left) == ["00000020-a1", "00000040-a1"]


def test_prune_without_a_recipe_asks_how_many(left: Left) -> None:
    left.save(20)
    (left.folder / "recipe.yaml").unlink()
    before = tree(left.run.checkpoints)
    with pytest.raises(ColabMagicsError, match=r"%checkpoint prune kwanzaa --keep 2"):
        do(left, "prune")
    assert tree(left.run.checkpoints) == before
    assert do(left, "prune --keep 1") == ["Nothing to delete: kwanzaa keeps 1 checkpoint."]


# --- pin and unpin ---------------------------------------------------------------------------------------------------


def test_a_pin_is_an_empty_file_of_the_checkpoints_name_and_can_be_taken_back(left: Left) -> None:
    left.save(20)
    assert do(left, "pin 20 kwanzaa") == ["Pinned step 20 of kwanzaa: it is kept until %checkpoint unpin 20 kwanzaa."]
    pin = left.folder / "pins" / "00000020-a1"
    assert pin.read_bytes() == b""
    assert do(left, "pin 20") == ["Step 20 of kwanzaa is pinned already."]
    assert do(left, "unpin 20") == ["Step 20 of kwanzaa is no longer pinned; the next prune may delete it."]
    assert not pin.exists()
    assert do(left, "unpin 20") == ["Step 20 of kwanzaa is not pinned."]


def test_of_two_attempts_at_one_step_the_newest_is_pinned_or_the_one_that_is_named(left: Left) -> None:
    left.save(20)
    left.save(20, attempt=2)
    do(left, "pin 20")
    do(left, "pin 00000020-a1")
    assert sorted(os.listdir(left.folder / "pins")) == ["00000020-a1", "00000020-a2"]
    do(left, "unpin 00000020-a2")
    assert os.listdir(left.folder / "pins") == ["00000020-a1"]


def test_a_step_without_a_checkpoint_cannot_be_pinned_and_the_nearest_is_named(left: Left) -> None:
    left.save(20)
    left.save(40)
    assert refused(left, "pin 42") == [
        "kwanzaa has no checkpoint of step 42.",
        "It has 20, 40.",
        "→ Did you mean 40?",
    ]
    assert refused(left, "pin 00000040-a7")[0] == "kwanzaa has no checkpoint of step 40, attempt 7."


def test_a_broken_checkpoint_cannot_be_pinned(left: Left) -> None:
    truncate(left.save(20) / "state.json")
    assert refused(left, "pin 20")[0] == "The checkpoint of step 20 is broken."


def test_a_disk_that_takes_no_pin_is_said_in_words(left: Left) -> None:
    left.save(20)
    (left.folder / "pins").write_text("a file, where a folder should be")
    assert refused(left, "pin 20")[:2] == ["The pin of step 20 could not be changed.", "File exists."]


def test_a_pin_whose_checkpoint_is_gone_can_be_taken_back(left: Left) -> None:
    left.save(40)
    do(left, "pin 40")
    shutil.rmtree(left.run.checkpoints / "00000040-a1")
    assert "no longer pinned" in do(left, "unpin 40")[0]
    assert os.listdir(left.folder / "pins") == []


# --- show ------------------------------------------------------------------------------------------------------------


def test_show_tells_what_a_checkpoint_holds_and_how_to_load_it(left: Left) -> None:
    left.save(20)
    folder = left.save(
        40,
        eval_loss=1.5,
        samples=320,
        method="qlora",
        reason="interval",
        parent="00000020-a1",
        recipe="abcd1234",
        versions={"torch": "2.13.0", "peft": "0.20.0"},
    )
    left.copied(40, "handed over")
    lines = do(left, "show")
    facts = dict(line.split("  ", 1) for line in lines[1 : lines.index("")])
    facts = {key: value.strip() for key, value in facts.items()}
    assert lines[0] == "kwanzaa, step 40"
    assert facts.pop("saved").endswith("UTC, 3 min ago, interval")
    assert facts == {
        "folder": str(folder),
        "step": "40 of 100, attempt 1",
        "samples": "320",
        "loss": "0.0250",
        "eval loss": "1.5000",
        "copy": "handed over",
        "marks": "newest, best",
        "after": "00000020-a1",
        "method": "qlora",
        "recipe": "abcd1234",
        "versions": "torch 2.13.0, peft 0.20.0",
        "arrangement": "micro_batch 4, gradient_checkpointing True",
    }
    assert lines[lines.index("") + 1 :] == [
        "optimizer.safetensors      856 bytes  8 tensors, 16 numbers (F32): 4 exp_avg, 4 exp_avg_sq",
        "adapter_model.safetensors  424 bytes  4 tensors, 8 numbers (F32): 2 lora_A, 2 lora_B",
        "state.json                  81 bytes",
        "adapter_config.json         35 bytes",
        "",
        "from peft import AutoPeftModelForCausalLM",
        f"model = AutoPeftModelForCausalLM.from_pretrained({str(folder)!r})",
    ]


def test_show_of_a_full_fine_tuning_names_the_class_that_loads_it(left: Left) -> None:
    left.save(20, adapter=False)
    assert do(left, "show kwanzaa 20")[-2:] == [
        "from transformers import AutoModelForCausalLM",
        f"model = AutoModelForCausalLM.from_pretrained({str(left.run.checkpoints / '00000020-a1')!r})",
    ]


def test_show_of_a_file_that_only_looks_right_says_what_cannot_be_read(left: Left) -> None:
    folder = left.save(20)
    size = (folder / "optimizer.safetensors").stat().st_size
    (folder / "optimizer.safetensors").write_bytes(bytes([255]) * size)
    (folder / "state.json").write_bytes(b"[" * (folder / "state.json").stat().st_size)
    told = "\n".join(do(left, "show"))
    assert "state.json" in told
    assert told.count("cannot be read") == 2


def test_show_of_a_broken_checkpoint_says_how_it_is_broken(left: Left) -> None:
    (left.save(20) / "state.json").unlink()
    assert refused(left, "show 20")[:2] == ["The checkpoint of step 20 is broken.", "state.json is missing."]


def test_show_draws_nothing_on_the_terminal_and_tells_no_token(left: Left) -> None:
    left.save(20, method="\x1b[31mred", note="hf_abcdefghijklmnop")
    told = "\n".join(do(left, "show"))
    assert "\x1b" not in told
    assert "hf_***" in told
    assert "abcdefghijklmnop" not in told
