"""A state is put back in place, by name, and refused where it is another."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from colab_magics.errors import ColabMagicsError
from colab_magics.tracking import arrays, randomness
from colab_magics.tracking.saving import Saved, contents_of
from colab_magics.tracking.state import encoded, put_back
from colab_magics.tracking.values import Unsaveable

from .conftest import Died, Root

pytestmark = pytest.mark.colab


def saved(state: dict[str, Any], folder: Path) -> Saved:
    """The state as a checkpoint's files hold it."""
    told, live = encoded(state)
    for name, pieces in contents_of(told, {}, {}, arrays.HostCopies().of(live)).items():
        (folder / name).write_bytes(b"".join(pieces))
    return Saved.read(folder)


@pytest.fixture
def restored(tmp_path: Path) -> Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]:
    """Saves the one state and puts it into the other."""

    def restore(was: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
        kept = saved(was, tmp_path)
        put_back(now, kept.state, kept.tensors)
        return now

    return restore


Restored = Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]


def net(width: int = 4) -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Linear(width, 2))


def trained(width: int = 4, steps: int = 3) -> tuple[nn.Sequential, torch.optim.AdamW]:
    model = net(width)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, betas=(0.8, 0.99))
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(5, 3)).sum().backward()
        optimizer.step()
    return model, optimizer


def test_a_module_and_its_optimizer_are_put_back_into_the_same_tensors(restored: Restored) -> None:
    model, optimizer = trained()
    other = net()
    its = torch.optim.AdamW(other.parameters(), lr=0.1)
    memory = [one.data_ptr() for one in other.parameters()]
    restored({"model": model, "optimizer": optimizer}, {"model": other, "optimizer": its})
    assert [one.data_ptr() for one in other.parameters()] == memory
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))
    assert its.param_groups[0]["betas"] == (0.8, 0.99)
    for one, twin in zip(model.parameters(), other.parameters(), strict=True):
        assert all(torch.equal(optimizer.state[one][key], its.state[twin][key]) for key in optimizer.state[one])


def test_an_optimizers_states_go_by_the_names_of_parameters_and_not_by_their_order(restored: Restored) -> None:
    model, optimizer = trained()
    other = net()
    its = torch.optim.AdamW(list(other.parameters())[::-1], lr=0.1)
    restored({"model": model, "optimizer": optimizer}, {"model": other, "optimizer": its})
    first, twin = next(model.parameters()), next(other.parameters())
    assert torch.equal(optimizer.state[first]["exp_avg"], its.state[twin]["exp_avg"])


def test_moments_finer_than_the_parameter_are_not_rounded(restored: Restored) -> None:
    weight, twin = (nn.Parameter(torch.ones(2, dtype=torch.bfloat16)) for _ in range(2))
    optimizer, its = torch.optim.SGD([weight], 0.1, momentum=0.9), torch.optim.SGD([twin], 0.1, momentum=0.9)
    optimizer.state[weight]["momentum_buffer"] = torch.tensor([1.0001, 2.0003])
    restored({"optimizer": optimizer}, {"optimizer": its})
    assert its.state[twin]["momentum_buffer"].tolist() == torch.tensor([1.0001, 2.0003]).tolist()


@pytest.mark.parametrize(
    "made",
    [
        lambda it: torch.optim.lr_scheduler.OneCycleLR(it, 0.1, total_steps=50),
        lambda it: torch.optim.lr_scheduler.MultiStepLR(it, [2, 5]),
        lambda it: torch.optim.lr_scheduler.ReduceLROnPlateau(it, patience=2),
        lambda it: torch.optim.lr_scheduler.LambdaLR(it, lambda step: 0.9**step),
        lambda it: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(it, 4),
        lambda it: torch.optim.lr_scheduler.SequentialLR(
            it,
            [torch.optim.lr_scheduler.LinearLR(it), torch.optim.lr_scheduler.ExponentialLR(it, 0.9)],
            milestones=[2],
        ),
    ],
    ids=["one cycle", "steps", "plateau", "lambda", "restarts", "sequence"],
)
def test_a_schedule_goes_on_as_it_would_have(made: Callable[[Any], Any], restored: Restored) -> None:
    def rates(schedule: Any, optimizer: Any, steps: int) -> list[float]:
        found = []
        for _ in range(steps):
            optimizer.step()
            schedule.step(1.0) if isinstance(schedule, torch.optim.lr_scheduler.ReduceLROnPlateau) else schedule.step()
            found.append(optimizer.param_groups[0]["lr"])
        return found

    def both() -> tuple[Any, Any]:
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
        return made(optimizer), optimizer

    (schedule, optimizer), (other, its) = both(), both()
    rates(schedule, optimizer, 4)
    restored({"o": optimizer, "s": schedule}, {"o": its, "s": other})
    assert rates(other, its, 8) == rates(schedule, optimizer, 8)


def test_generators_draw_on_where_they_stood(restored: Restored) -> None:
    def made() -> dict[str, Any]:
        return {
            "torch": torch.Generator().manual_seed(1),
            "numpy": np.random.default_rng(1),
            "old": np.random.RandomState(1),
            "python": random.Random(1),
        }

    def draw(them: dict[str, Any]) -> list[float]:
        return [
            torch.rand(1, generator=them["torch"]).item(),
            them["numpy"].random(),
            them["old"].rand(),
            them["python"].random(),
        ]

    was, now = made(), made()
    draw(was)
    restored(was, now)
    assert draw(now) == draw(was)


DRAWS: dict[str, tuple[Callable[[int], Any], Callable[[], float]]] = {
    "python": (random.seed, random.random),
    "numpy": (np.random.seed, lambda: float(np.random.random())),
    "torch": (torch.manual_seed, lambda: torch.rand(()).item()),
}


@pytest.mark.parametrize("library", DRAWS)
def test_random_numbers_of_each_library_fall_after_a_resume_as_they_would_have(root: Root, library: str) -> None:
    seed, draw = DRAWS[library]

    def loader() -> Iterator[float]:
        """Draws once as a pass begins, as a shuffled one does."""
        first = draw()
        yield from (first + number for number in range(4))

    def drawn(name: str, dies_at: int | None = None) -> list[float]:
        seed(5)
        state: dict[str, Any] = {"drawn": []}
        with root.track(name, state, save_every="1 steps") as run:
            for value in run.rest(loader()):
                state["drawn"] += [value, draw()]
                run.log(loss=value)
                run.saver.wait()
                if run.step == dies_at:
                    raise Died
        return list(state["drawn"])

    whole = drawn("whole")
    with pytest.raises(Died):
        drawn("cut", 2)
    assert drawn("cut") == whole


class PretendedCuda:
    """Cards whose generators are given a state."""

    def __init__(self, cards: int) -> None:
        self.cards, self.drawn = cards, dict[int, str]()

    def is_available(self) -> bool:
        return self.cards > 0

    def is_initialized(self) -> bool:
        return self.cards > 0

    def device_count(self) -> int:
        return self.cards

    def set_rng_state(self, state: str, card: int) -> None:
        self.drawn[card] = state


@pytest.mark.parametrize(
    ("cards", "states", "drawn", "said"),
    [
        (2, ["a", "b"], {0: "a", 1: "b"}, []),
        (1, ["a", "b"], {0: "a"}, ["2 GPUs drew random numbers, and 1 are here"]),
        (3, ["a", "b"], {0: "a", 1: "b"}, ["2 GPUs drew random numbers, and 3 are here"]),
        (0, ["a"], {}, ["the GPU is gone: random numbers fall otherwise"]),
        (1, None, {}, ["it was computed without a GPU: random numbers fall otherwise"]),
        (0, None, {}, []),
    ],
)
def test_each_gpu_draws_on_where_it_stood_and_another_number_of_them_is_said(
    cards: int, states: list[str] | None, drawn: dict[int, str], said: list[str]
) -> None:
    cuda = PretendedCuda(cards)
    assert randomness._on_gpus(SimpleNamespace(cuda=cuda), states) == said
    assert cuda.drawn == drawn


def test_numbers_lists_and_nested_modules_are_put_back(restored: Restored) -> None:
    model, other = net(), net()
    array = np.zeros(2)
    history: list[Any] = []
    was = {
        "step": 7,
        "nets": {"g": model, "all": [net()]},
        "history": [1.0, torch.ones(2)],
        "a": np.ones(2),
        "w": torch.ones(3),
    }
    now = {"step": 0, "nets": {"g": other, "all": [net()]}, "history": history, "a": array, "w": torch.zeros(3)}
    restored(was, now)
    assert now["step"] == 7
    assert now["history"] is history
    assert history[0] == 1.0
    assert torch.equal(history[1], torch.ones(2))
    assert array.tolist() == [1, 1]
    assert now["w"].tolist() == [1, 1, 1]
    assert torch.equal(model[0].weight, other[0].weight)


class Counts:
    """An object of a person's own."""

    def __init__(self) -> None:
        self.count = 0

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, told: dict[str, Any]) -> None:
        self.count = told["count"]


def test_any_object_with_state_dict_and_load_state_dict_is_taken_at_its_word(restored: Restored) -> None:
    was, now = Counts(), Counts()
    was.count = 3
    restored({"mine": was, "scaler": torch.amp.GradScaler("cpu")}, {"mine": now, "scaler": torch.amp.GradScaler("cpu")})
    assert now.count == 3


def test_another_shape_is_refused_with_both_named_and_nothing_is_touched(restored: Restored) -> None:
    model, _ = trained()
    wide = net(6)
    now = {"step": 0, "model": wide}
    before = wide[0].bias.clone()
    with pytest.raises(ColabMagicsError) as refused:
        restored({"step": 1, "model": model}, now)
    assert (
        refused.value.what == 'state["model"]["0.weight"] is float32 (4, 3) in the checkpoint, and float32 (6, 3) here.'
    )
    assert torch.equal(wide[0].bias, before)
    assert now["step"] == 0
    assert any("again=True" in step for step in refused.value.next_steps)


@pytest.mark.parametrize(
    ("was", "now", "named"),
    [
        ({"a": 1, "b": 2}, {"a": 1}, 'state["b"] is in the checkpoint'),
        ({"a": 1}, {"a": 1, "c": 2}, 'state["c"] is new'),
        (
            {"w": torch.zeros(2)},
            {"w": torch.zeros(2, dtype=torch.float64)},
            "float32 (2,) in the checkpoint, and float64 (2,)",
        ),
        ({"m": nn.Linear(1, 1)}, {"m": nn.Bilinear(1, 1, 1)}, 'state["m"] was a Linear, and is a Bilinear'),
        ({"m": {"a": nn.Linear(1, 1)}}, {"m": {}}, 'state["m"]["a"] was a Linear, and is nothing'),
        ({"m": 3}, {"m": nn.Linear(1, 1)}, 'state["m"] was another thing'),
    ],
    ids=["missing", "new", "dtype", "class", "nested", "plain"],
)
def test_a_changed_state_is_refused_by_name(
    was: dict[str, Any], now: dict[str, Any], named: str, restored: Restored
) -> None:
    with pytest.raises(ColabMagicsError) as refused:
        restored(was, now)
    assert named in refused.value.what


class Stepping(torch.optim.lr_scheduler.LRScheduler):
    """A schedule that keeps a lambda, as people write them."""

    def __init__(self, optimizer: Any) -> None:
        self.factor = lambda step: 0.9**step
        super().__init__(optimizer)

    def get_lr(self) -> list[float]:
        return [base * self.factor(self.last_epoch) for base in self.base_lrs]


def test_a_lambda_in_a_schedule_is_refused_by_its_place_with_what_to_do() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    with pytest.raises(Unsaveable) as refused:
        encoded({"schedule": Stepping(optimizer)})
    assert refused.value.what == 'state["schedule"].factor cannot be saved.'
    assert "state_dict()" in " ".join(refused.value.next_steps)


def test_an_object_in_a_group_of_an_optimizer_is_refused_by_its_place() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    optimizer.param_groups[0]["foo"] = object()
    with pytest.raises(Unsaveable, match=r'state\["optimizer"\]\.param_groups\[0\]\["foo"\] cannot be saved'):
        encoded({"optimizer": optimizer})


def test_a_module_has_a_file_of_its_own_that_safetensors_loads_as_it_stands(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    model = net()
    saved({"model": model, "best": 1.0}, tmp_path)
    other = net()
    other.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert torch.equal(other[2].weight, model[2].weight)
    assert "model" in json.loads((tmp_path / "state.json").read_text())["state"]


def test_no_file_of_a_checkpoint_holds_a_pickle(tmp_path: Path) -> None:
    model, optimizer = trained()
    saved({"model": model, "optimizer": optimizer}, tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors", ".json"}
