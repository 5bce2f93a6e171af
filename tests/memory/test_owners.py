"""Who holds memory, by name: with real tensors of torch on the CPU, which are looked at as those of a GPU are."""

from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell
from memory.pretended import one_t4
from traitlets.config import Config

from colab_magics.memory import report
from colab_magics.memory.allocator import Allocator
from colab_magics.memory.owners import FAILED, UNNAMED, Owner, survey
from colab_magics.memory.tensors import Libraries

torch = pytest.importorskip("torch")

pytestmark = [pytest.mark.colab, pytest.mark.xdist_group("owners")]

MIB = 2**20
SETUP = """
import torch, numpy, gc
def mib(count): return torch.ones(count * 2**18)
"""


@pytest.fixture
def shell(capsys: Any) -> Iterator[Any]:
    shell = InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    shell.run_cell(SETUP)
    yield shell
    for name in list(shell.user_ns):
        if not name.startswith("_"):
            shell.user_ns[name] = None
    shell.run_cell("1 / 0")  # in the place of what the test has left there
    InteractiveShell.clear_instance()
    gc.collect()


def owners(shell: Any, cell: str = "", **how: Any) -> dict[str, Owner]:
    """By `name: what`; those of the test's own cell alone, for the process has other tensors."""
    if cell:
        shell.run_cell(cell, store_history=True)
    found = survey(shell, host=True, **how)
    return {f"{one.name}: {one.what}": one for one in found.owners if one.bytes >= MIB and one.name != UNNAMED}


def sizes(found: dict[str, Owner]) -> dict[str, int]:
    return {name: one.bytes // MIB for name, one in found.items()}


def test_a_model_its_gradients_and_its_optimizer_have_a_line_each(shell: Any) -> None:
    found = owners(
        shell,
        "model = torch.nn.Linear(1024, 1024, bias=False)\noptimizer = torch.optim.AdamW(model.parameters())\n"
        "model(torch.ones(2, 1024)).sum().backward()\noptimizer.step()",
    )
    assert sizes(found) == {"optimizer: states of AdamW": 8, "model: weights of Linear": 4, "model: gradients": 4}
    assert found["model: weights of Linear"].also == ("optimizer",)
    assert found["model: gradients"].variable == "model"


def test_what_a_trainer_holds_has_the_name_of_its_place_in_it(shell: Any) -> None:
    found = owners(
        shell,
        "class Trainer: pass\ntrainer = Trainer()\n"
        "trainer.deep = {'models': [torch.nn.Linear(1024, 1024, bias=False)]}\n"
        "trainer.batch = mib(2)",
    )
    assert sizes(found) == {
        "trainer.deep['models'][0]: weights of Linear": 4,
        "trainer: batch: float32 [524288]": 2,
    }
    assert {one.variable for one in found.values()} == {"trainer"}


def test_shared_memory_is_counted_once_and_the_other_names_are_told(shell: Any) -> None:
    found = owners(
        shell, "base = mib(4)\nview = base[10:]\nagain = {'same': base.detach(), 'turned': base.view(2, -1)}"
    )
    [owner] = found.values()
    assert (owner.name, owner.bytes, owner.also) == ("base", 4 * MIB, ("view", "again"))


def test_a_tied_weight_is_counted_once(shell: Any) -> None:
    found = owners(
        shell,
        "model = torch.nn.Sequential(torch.nn.Embedding(1024, 256), torch.nn.Linear(256, 1024, bias=False))\n"
        "model[1].weight = model[0].weight",
    )
    assert sizes(found) == {"model: weights of Sequential": 1}


def test_a_tensor_and_the_array_that_shares_it_are_one(shell: Any) -> None:
    found = owners(shell, "array = numpy.ones((1024, 256))\ntensor = torch.from_numpy(array)")
    [owner] = found.values()
    assert (owner.name, owner.bytes, owner.also) == ("tensor", 2 * MIB, ("array",))


def test_arrays_and_tables_are_named_from_a_mebibyte_on_and_files_are_no_memory(shell: Any, tmp_path: Any) -> None:
    shell.user_ns["path"] = str(tmp_path / "on_disk")
    found = owners(
        shell,
        "import pandas\ntable = pandas.DataFrame({'a': numpy.ones(2**18)})\nsmall = numpy.ones(2**10)\n"
        "array = numpy.ones(2**18)[5:]\non_disk = numpy.memmap(path, shape=2**22, mode='w+')",
    )
    assert sizes(found) == {"table: DataFrame of 262,144 rows": 2, "array: array float64 [262139]": 2}
    assert not any(one.tensors for one in found.values())


def test_outputs_are_named_by_their_number_and_not_twice(shell: Any) -> None:
    shell.run_cell("1", store_history=True)
    found = owners(shell, "mib(2)")
    [owner] = found.values()
    number = max(shell.user_ns["Out"])
    assert (owner.name, owner.variable, owner.also) == (f"Out[{number}]", f"Out[{number}]", ())


def test_a_failed_cell_is_named_by_its_function_and_its_cell(shell: Any) -> None:
    shell.run_cell("def train_step(batch):\n    logits = mib(3)\n    raise RuntimeError", store_history=True)
    number = shell.execution_count - 1
    found = owners(shell, "kept = mib(1)\ntrain_step(kept)")
    assert sizes(found) == {
        f"{FAILED}: train_step() in cell {number}: logits: float32 [786432]": 3,
        "kept: float32 [262144]": 1,
    }
    assert found["kept: float32 [262144]"].also == (FAILED,)


def test_an_error_that_the_user_keeps_is_his_variable(shell: Any) -> None:
    found = owners(
        shell,
        "def fails():\n    held = mib(2)\n    1 / 0\ntry:\n    fails()\nexcept ZeroDivisionError as e:\n    err = e",
    )
    [owner] = found.values()
    assert owner.name.startswith("err: fails() in ")
    assert owner.variable == "err"


def test_closures_defaults_classes_and_generators_are_looked_into(shell: Any) -> None:
    found = owners(
        shell,
        "def make():\n    inner = mib(1)\n    return lambda: inner\nclosure = make()\n"
        "def default(x=mib(2)): pass\n"
        "class Config:\n    table = mib(3)\n"
        "def stream():\n    held = mib(4)\n    yield held\ngenerator = stream(); next(generator);",
    )
    assert {one.variable: one.bytes // MIB for one in found.values()} == {
        "closure": 1, "default": 2, "Config": 3, "generator": 4,
    }  # fmt: skip


def test_a_module_of_the_users_is_looked_into_and_one_that_was_imported_is_no_variable(
    shell: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kept_in_a_file.py").write_text("import torch\nt = torch.ones(2**19)\n")
    monkeypatch.syspath_prepend(tmp_path)
    made = "import types\nmade = types.ModuleType('made'); made.t = mib(3)\nimport kept_in_a_file, numpy"
    found = owners(shell, made)
    assert {name: (one.bytes // MIB, one.variable) for name, one in found.items()} == {
        "made: t: float32 [786432]": (3, "made"),
        "kept_in_a_file: t: float32 [524288]": (2, ""),
    }


def test_graphs_that_were_looked_through_are_told_apart_from_such_as_hide_something(shell: Any) -> None:
    shell.run_cell("weight = mib(1).requires_grad_()\nloss = (weight * 2).exp()\n")
    found = survey(shell, host=True)
    assert (found.graphs, found.read) == (("loss",), ("loss",))
    shell.run_cell("deep = weight\nfor _ in range(11_000): deep = deep * 1.0")
    found = survey(shell, host=True, seconds=30)
    assert set(found.graphs) - set(found.read) == {"deep"}


def test_the_graph_of_a_loss_is_told(shell: Any) -> None:
    found = owners(shell, "weight = mib(1).requires_grad_()\nloss = weight * 2")
    assert found["loss: float32 [262144], with its graph"].bytes == MIB


LEAK = """
net = torch.nn.Sequential(torch.nn.Linear(1024, 1024), torch.nn.ReLU(), torch.nn.Linear(1024, 1024))
x = mib(4).view(-1, 1024)
losses = [net(x).pow(2).mean() for _ in range(2)]
"""


def test_what_a_graph_has_saved_is_named_as_its_losses_and_what_has_a_name_keeps_it(shell: Any) -> None:
    found = owners(shell, LEAK)
    assert sizes(found) == {
        "losses: graph of losses[0], losses[1]: 4 tensors saved for backward": 16,
        "net: weights of Sequential": 8,
        "x: float32 [1024, 1024]": 4,
    }
    assert found["x: float32 [1024, 1024]"].also == ("losses",)
    assert found["net: weights of Sequential"].also == ("losses",)
    assert {one.variable for one in found.values()} == {"losses", "net", "x"}


def test_what_two_graphs_share_is_said_to_be_held_by_both(shell: Any) -> None:
    found = owners(
        shell, "trunk = mib(1).requires_grad_().exp().exp()\none, other = trunk.sum(), trunk.mean()\ndel trunk"
    )
    assert found["one: graph of one: 2 tensors saved for backward"].also == ("other",)
    assert found["one: graph of one: 1 parameter"].also == ("other",)


def test_parameters_that_only_a_graph_still_holds_are_its(shell: Any) -> None:
    found = owners(shell, LEAK + "del net")
    assert found["losses: graph of losses[0]: 4 parameters"].variable == "losses"
    assert survey(shell, host=True).graphs == ("losses",)


def test_a_graph_that_backward_has_emptied_carries_nothing(shell: Any) -> None:
    found = owners(shell, LEAK + "for loss in losses: loss.backward()")
    assert not [name for name in found if "saved for backward" in name]
    assert survey(shell, host=True).graphs == ()


def test_the_graph_in_a_failed_cell_is_told_by_its_local_variable(shell: Any) -> None:
    shell.run_cell("def step():\n    loss = mib(1).requires_grad_().exp().sum()\n    1 / 0", store_history=True)
    found = owners(shell, "step()")
    [name] = [name for name in found if "saved for backward" in name]
    assert name.endswith(": graph of loss: 1 tensor saved for backward")
    assert name.startswith(f"{FAILED}: step() in cell ")


HOOKED = """
from torch.utils.checkpoint import checkpoint
ran = []
def forward(given):
    ran.append('forward')
    return given.exp()
def unpack(packed):
    ran.append('unpack')
    return packed['tensor']
class Custom(torch.autograd.Function):
    @staticmethod
    def forward(ctx, given):
        ctx.save_for_backward(given * 2)
        ctx.aside = given * 3
        return given.sum()
    @staticmethod
    def backward(ctx, given): ran.append('backward')
weight = mib(1).requires_grad_()
saved = checkpoint(forward, weight * 2, use_reentrant=False).sum()
with torch.autograd.graph.saved_tensors_hooks(lambda one: {'tensor': one.clone()}, unpack):
    hooked = weight.exp().sum()
custom = Custom.apply(weight)
ran.clear()
"""


def test_no_hook_is_run_and_nothing_is_unpacked(shell: Any) -> None:
    found = owners(shell, HOOKED)
    assert shell.user_ns["ran"] == []
    assert sizes(found)["hooked: graph of hooked: 1 tensor saved for backward"] == 1
    assert sizes(found)["custom: graph of custom: 2 tensors saved for backward"] == 2
    assert {"saved", "hooked", "custom"} <= set(survey(shell, host=True).graphs)
    shell.run_cell("(saved + hooked).backward()")
    assert sorted(shell.user_ns["ran"]) == ["forward", "unpack"]
    assert shell.user_ns["weight"].grad is not None


def test_a_graph_that_was_looked_at_dies_with_its_loss(shell: Any) -> None:
    shell.run_cell("hidden = mib(1).requires_grad_() * 2\nloss = hidden.exp().sum()")
    watched = weakref.ref(shell.user_ns.pop("hidden"))
    survey(shell, host=True)
    gc.disable()
    try:
        shell.user_ns["loss"] = None
        assert watched() is None
    finally:
        gc.enable()


def test_a_graph_of_a_hundred_thousand_nodes_is_cut_off_and_said(shell: Any) -> None:
    shell.run_cell("deep = torch.ones(1, requires_grad=True)\nfor _ in range(120_000): deep = deep * 1.0")
    begin = time.process_time()
    found = survey(shell, host=True)
    assert time.process_time() - begin < 2.5
    assert "the graph of deep" in found.cut
    assert "deep" in found.graphs
    shell.run_cell("del deep")


@pytest.mark.parametrize("kept", ["states", "states[-1]"])
def test_of_a_long_chain_too_few_nodes_become_objects_to_overflow_the_stack_when_it_is_freed(
    shell: Any, kept: str
) -> None:
    shell.run_cell(
        "states = [torch.ones(1, requires_grad=True)]\nfor _ in range(30_000): states.append(states[-1] * 1.0)\n"
        f"kept = {kept}\ndel states"
    )
    for _ in range(2):
        assert "the graph of kept" in survey(shell, host=True, seconds=30).cut
    node = type((torch.ones(1, requires_grad=True) * 1.0).grad_fn)
    assert sum(type(one) is node for one in gc.get_objects()) < 11_000


def test_a_hundred_losses_of_a_deep_model_are_seen_to_their_end(shell: Any) -> None:
    found = owners(
        shell,
        "weight, losses = mib(1).requires_grad_(), []\nfor _ in range(100):\n    deep = weight[:1] * 1\n"
        "    for _ in range(300): deep = deep * 1.0\n    losses.append(deep.sum())\ndel deep",
        seconds=30,
    )
    assert not survey(shell, host=True, seconds=30).cut
    assert found["weight: float32 [262144]"].also == ("losses",)


def test_a_view_says_of_how_much(shell: Any) -> None:
    found = owners(shell, "view = mib(4)[:10]\narray = numpy.ones(2**19)[:10]")
    assert set(found) == {"view: float32 [10], a view of 4.0 MiB", "array: array float64 [10], a view of 4.0 MiB"}


def test_a_closure_is_told_in_words(shell: Any) -> None:
    found = owners(shell, "def make():\n    inner = mib(1)\n    return lambda: inner\ng = make()")
    assert set(found) == {"g: in its closure: float32 [262144]"}


def test_quantised_weights_count_with_their_state(shell: Any) -> None:
    pytest.importorskip("bitsandbytes")
    found = owners(
        shell,
        "import bitsandbytes as bnb\nlayer = bnb.nn.Linear4bit(1024, 2048, bias=False)\nlayer = layer.to('cpu')\n"
        "held = layer.weight.nbytes + sum(getattr(layer.weight.quant_state, n).nbytes for n in ('absmax', 'code'))",
    )
    total = sum(one.bytes for one in found.values())
    assert shell.user_ns["held"] <= total <= shell.user_ns["held"] + MIB // 4
    assert "layer: weights of Linear4bit" in found


def test_sparse_meta_and_fake_tensors_are_counted_as_what_they_take(shell: Any) -> None:
    found = owners(
        shell,
        "from torch._subclasses.fake_tensor import FakeTensorMode\nsparse = mib(1).to_sparse()\n"
        "meta = torch.ones(2**20, device='meta')\nwith FakeTensorMode():\n    fake = torch.ones(2**20)",
    )
    assert sizes(found) == {"sparse: 2 tensors, the largest float32 [262144]": 3}


def test_tensors_that_no_name_leads_to_are_counted(shell: Any) -> None:
    before = survey(shell, host=True)
    cycle: list[Any] = [torch.ones(2**18), torch.ones(2**18)]
    cycle.append(cycle)
    after = survey(shell, host=True)

    def unnamed(found: Any) -> int:
        return sum(one.bytes for one in found.owners if one.name == UNNAMED)

    assert unnamed(after) - unnamed(before) == 2 * MIB
    assert not any(one.variable for one in after.owners if one.name == UNNAMED)


HOSTILE = """
class Hostile:
    def __init__(self): object.__setattr__(self, 'held', mib(2))
    def refuse(self, *_): raise RuntimeError('must not be asked')
    __class__ = property(refuse)
    __len__ = __iter__ = __getattr__ = __eq__ = __hash__ = __repr__ = __bool__ = refuse
    value = property(refuse)
class Odd(torch.Tensor):
    @classmethod
    def __torch_function__(cls, *_, **__): raise RuntimeError('must not be asked')
hostile = Hostile()
odd = mib(1).as_subclass(Odd)
"""


def test_objects_that_refuse_everything_are_looked_into_all_the_same(shell: Any) -> None:
    found = owners(shell, HOSTILE)
    assert sizes(found) == {"hostile: held: float32 [524288]": 2, "odd: float32 [262144]": 1}


def test_nothing_that_was_found_is_kept(shell: Any) -> None:
    shell.run_cell("model = torch.nn.Linear(1024, 1024)\nbatch = {'ids': mib(1)}")
    watched = [weakref.ref(shell.user_ns["model"]), weakref.ref(shell.user_ns["batch"]["ids"])]
    found = survey(shell, host=True)
    gc.disable()  # not a cycle either
    try:
        shell.user_ns["model"] = shell.user_ns["batch"] = None
        assert [one() for one in watched] == [None, None]
    finally:
        gc.enable()
    assert found.owners


def test_a_hundred_thousand_objects_take_less_than_two_seconds_and_hide_no_other_name(shell: Any) -> None:
    shell.run_cell(
        "class Item:\n    def __init__(self, n): self.n, self.rest = n, [n, {'n': n}]\n"
        "items = [Item(n) for n in range(100_000)]\nafter = mib(2)\n"
        "class Trainer: pass\nzz_trainer = Trainer(); zz_trainer.batch = mib(3)"
    )
    begin = time.process_time()
    found = survey(shell, host=True)
    assert time.process_time() - begin < 2
    assert {"after", "zz_trainer"} <= {one.name for one in found.owners}
    assert found.cut == "" or found.cut.startswith("items")


def test_what_was_cut_off_is_said(shell: Any) -> None:
    shell.run_cell("items = [[n] for n in range(10_000)]\nmore = [[n] for n in range(10_000)]")
    found = survey(shell, host=True, seconds=0)
    assert "items" in found.cut
    assert "too many objects" in found.cut


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Has tensors of a MiB and more claim to be on `cuda:0`, whose allocator has given out so many bytes."""
    real = Libraries._storage

    def claimed(libraries: Libraries, tensor: Any) -> Any:
        found = real(libraries, tensor)
        return replace(found, device="cuda:0") if found is not None and found.bytes >= MIB else found

    monkeypatch.setattr(Libraries, "_storage", claimed)
    monkeypatch.setattr(report, "cuda", object)

    def allocate(count: int) -> None:
        here = (Allocator("cuda:0", count, count),)
        monkeypatch.setattr(report, "allocators", lambda **_: here)

    return allocate


def test_on_a_gpu_what_the_allocator_has_beyond_pythons_tensors_is_told(shell: Any, on_a_gpu: Any) -> None:
    shell.run_cell("weight = mib(1).requires_grad_()\nloss = (weight * 2).exp()\narray = numpy.ones(2**20)")
    others = survey(shell, host=False).on("cuda:0")
    on_a_gpu(others + 5 * MIB)
    taken = report.take(Path("nowhere"), shell, nvml=one_t4())
    [unseen] = [one for one in taken.owners if one.name == report.UNSEEN]
    said = "saved for backward, or inside C++: likely by the graph of loss"
    assert (unseen.bytes, unseen.what) == (5 * MIB, said)
    assert not any("array" in one.name for one in taken.owners)
    assert "loss" in report.holders(shell, most=10)


def test_on_a_gpu_the_hosts_tensors_are_nobodys_business(shell: Any) -> None:
    shell.run_cell("kept = mib(4)")
    assert not [one for one in survey(shell, host=False).owners if one.name == "kept"]
