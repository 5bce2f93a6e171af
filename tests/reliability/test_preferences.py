"""A comparison by TRL's trainer is killed and stopped as any run is, and ends in the weights that it would have had."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("trl", reason="TRL is not installed (an extra: colab-magics[trl])")

from kills import SHORT, Course, Workers, random_kills, random_stops

SEED = 20261122


@pytest.fixture(scope="module")
def comparison(warm, tmp_path_factory) -> Course:
    folder = tmp_path_factory.mktemp("comparison")
    rows: Path = folder / "pairs.jsonl"
    pairs = [
        {"prompt": f"What is {number}?", "chosen": f"Arr, {number}!", "rejected": f"It is {number}."}
        for number in range(9)
    ]
    rows.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    changes = {"objective": "dpo", "lora_dropout": 0.0, "max_steps": 8, "learning_rate": 1e-3}
    recipe = {**SHORT, **changes, "effective_batch_size": 4, "per_device_train_batch_size": 2}
    return Course.run(folder, Workers(str(warm.python), warm.environment), recipe, rows=rows)


def test_killed_at_random_moments_it_goes_on_to_the_same_weights(comparison):
    figures = random_kills(comparison, 3, SEED)
    print(figures)
    assert not figures.bad


def test_stopped_at_random_moments_it_goes_on_to_the_same_weights(comparison):
    figures = random_stops(comparison, 2, SEED)
    print(figures)
    assert not figures.bad


def test_its_result_is_an_adapter_with_a_card_that_says_how_it_was_made(comparison):
    card = (comparison.undisturbed.folder / "adapter" / "README.md").read_text()
    assert "dpo, sigmoid loss, beta 0.1 (TRL)" in card
    assert "rewards, margins" in card
    assert (comparison.undisturbed.folder / "adapter" / "adapter_model.safetensors").is_file()
    assert not list(comparison.undisturbed.folder.rglob("*.bin"))
    assert not list(comparison.undisturbed.folder.rglob("*.pt"))
