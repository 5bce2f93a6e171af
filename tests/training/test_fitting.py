"""What cannot fit is refused with who holds the memory: what the kernel gives back, and what other processes have."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from shapes import GPT2

from colab_magics.errors import ColabMagicsError
from colab_magics.memory.estimate import peak
from colab_magics.plan import GIB, DataFacts, Device, Verdict, choose_max_length, make_plan
from colab_magics.recipe import Recipe
from colab_magics.training import fitting
from colab_magics.training.source import ModelSource
from colab_magics.training.tracing import answer

FREE = Verdict("colab_magics", "equal", True, "stay apart", True, "plain")
RECIPE = Recipe(model="m", data="d", method="full", optim="adamw_torch", per_device_train_batch_size=1)
LENGTHS = np.full(64, 512, np.int32)


@pytest.fixture(autouse=True)
def _the_formula_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no model whose code could be traced: its sizes are all that is known."""
    monkeypatch.setattr(answer, "traced", lambda made, *_: made)


def refused(total: float, held: int, kernel_holds: int) -> ColabMagicsError:
    """What is said on a card of so many GiB, of which others hold some, and among them this kernel."""
    card = Device("cuda", "a card", int(total * GIB), int(total * GIB) - held, 12 * GIB, (7, 5))
    data = DataFacts(LENGTHS, 0, choose_max_length(RECIPE, LENGTHS, GPT2.positions))
    plan = make_plan(RECIPE, GPT2, card, data, FREE, peak)
    source = ModelSource("m", Path(), None, None, 0)
    with pytest.raises(ColabMagicsError) as raised:
        fitting.check_fit(plan, RECIPE, source, GPT2, FREE, card, data, kernel_holds=kernel_holds)
    return raised.value


FREED = "%vram free gives back what the kernel holds: then it fits as it is."
HELPS = "%vram free gives back what the kernel holds."
ENDED = "On an empty card it fits as it is: end the other processes there (%vram names them)."


@pytest.mark.parametrize(
    ("kernel", "others", "why", "helps"),
    [
        (2, 0, "This notebook's kernel holds 2.0 GiB.", [FREED]),
        (0, 2, "Other processes hold 2.0 GiB.", [ENDED]),
        (1, 2, "This notebook's kernel holds 1.0 GiB; other processes hold 2.0 GiB.", [HELPS, ENDED]),
        (2, 1, "This notebook's kernel holds 2.0 GiB; other processes hold 1.0 GiB.", [FREED, ENDED]),
    ],
)
def test_a_refusal_names_who_holds_the_card_and_whose_end_would_be_enough(
    kernel: int, others: int, why: str, helps: list[str]
) -> None:
    said = refused(4, (kernel + others) * GIB, kernel * GIB)  # it needs 2.7 GiB
    assert said.why == why
    *first, last = said.next_steps
    assert first == helps
    assert last.startswith("Or change the recipe, the least that fits: ")


def test_where_nobody_else_is_on_the_card_nobody_is_blamed() -> None:
    said = refused(1, 0, 0)
    assert said.why == ""
    assert list(said.next_steps) == ["Change the recipe, the least that fits: method: lora"]


@pytest.mark.parametrize("cap", ["24 MiB", "1 MiB"])
def test_a_cap_that_is_too_small_is_told_in_its_own_terms_with_what_would_fit(cap: str) -> None:
    recipe = replace(RECIPE, max_memory=cap)
    cpu = Device("cpu", "CPU with 2 cores", 12 * GIB, 10 * GIB, 10 * GIB)
    data = DataFacts(LENGTHS, 0, choose_max_length(recipe, LENGTHS, GPT2.positions))
    plan, source = make_plan(recipe, GPT2, cpu, data, FREE, peak), ModelSource("m", Path(), None, None, 0)
    with pytest.raises(ColabMagicsError) as raised:
        fitting.check_fit(plan, recipe, source, GPT2, FREE, cpu, data)
    said = raised.value
    assert f"for its tensors, and max_memory is {cap}" in said.what
    last = said.next_steps[-1]
    assert last.startswith("Set max_memory: " if len(said.next_steps) == 1 else "Or set max_memory: ")
    assert not any("GPU" in step for step in said.next_steps)
    enough = replace(recipe, max_memory=last.partition(": ")[2].rstrip("."))
    plan = make_plan(enough, GPT2, cpu, data, FREE, peak)
    assert fitting.check_fit(plan, enough, source, GPT2, FREE, cpu, data) is None
