"""A cell that ran out of memory is written down the moment it ends, and nothing of it is kept alive."""

from __future__ import annotations

import gc
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from colab_magics.errors import ColabMagicsError
from colab_magics.magics import vram_why
from colab_magics.magics.cell_record import FailedCell
from colab_magics.magics.failed_cell import FAILURES, HOOKS, cell_failed

from .conftest import Kernel

pytestmark = [pytest.mark.face, pytest.mark.colab]

CUDA = (
    "CUDA out of memory. Tried to allocate 2.32 GiB. GPU 0 has a total capacity of 14.56 GiB of which 1.94 GiB is free."
    " Including non-PyTorch memory, this process has 12.62 GiB memory in use. Of the allocated memory 12.42 GiB is "
    "allocated by PyTorch, and 56.76 MiB is reserved by PyTorch but unallocated."
)
# a training as a user writes it, of classes that are called as transformers' and TRL's are; its last line runs out
TRAINING = f"""
import numpy as np
class Values:
    def __init__(self, **values): self.__dict__.update(values)
class PeftModel:
    def __init__(self):
        self.config = Values(vocab_size=151936, hidden_size=2560, intermediate_size=9728, num_attention_heads=32,
            head_dim=128, num_key_value_heads=8, num_hidden_layers=36, quantization_config=Values(), tie_word_embeddings=True)
    def forward(self, input_ids):
        logits = np.empty((4, 1024, 151936), np.float16)
        return ForCausalLMLoss(logits)
def ForCausalLMLoss(logits):
    raise OutOfMemoryError({CUDA!r})
class OutOfMemoryError(RuntimeError): pass
class SFTTrainer:
    def __init__(self):
        self.model = PeftModel()
        self.state = Values(global_step=0)
        self.args = Values(per_device_train_batch_size=4, gradient_checkpointing=True, optim="adamw_torch", max_length=1024,
            hub_token="hf_" + "a" * 30)
    def train(self):
        self.model.forward(np.zeros((4, 1024), np.int64))
SFTTrainer().train()
"""  # noqa: E501


@pytest.fixture
def shell() -> Iterator[Any]:
    shell = InteractiveShell(config=Config({"HistoryManager": {"enabled": False}}))
    shell.user_ns["get_ipython"] = lambda: shell
    FAILURES.last = None
    shell.run_line_magic("load_ext", "colab_magics")
    yield shell
    shell.run_line_magic("unload_ext", "colab_magics")
    FAILURES.last = None
    InteractiveShell.clear_instance()


def noted(shell: Any, code: str) -> FailedCell:
    shell.run_cell(code, store_history=True)
    assert FAILURES.last is not None
    return FAILURES.last


def test_the_hook_comes_once_and_goes_with_the_extension(shell: Any) -> None:
    def hooked() -> list[int]:
        return [sum(one is hook for one in shell.events.callbacks[event]) for event, hook in HOOKS.items()]

    shell.run_line_magic("reload_ext", "colab_magics")
    assert hooked() == [1]
    shell.run_line_magic("unload_ext", "colab_magics")
    assert hooked() == [0]
    shell.run_line_magic("load_ext", "colab_magics")


def test_a_training_cell_is_written_down_in_text_and_numbers(shell: Any) -> None:
    found = noted(shell, TRAINING)
    assert found.message == CUDA
    assert found.cell == 1
    assert found.batch == (4, 1024)
    assert (found.step, found.adapters) == (0, True)
    assert found.config["vocab_size"] == 151_936
    assert found.config["quantization_config"] is True
    assert found.arguments == {
        "per_device_train_batch_size": 4, "gradient_checkpointing": True, "optim": "adamw_torch", "max_length": 1024,
    }  # fmt: skip
    assert [(one.name, one.shape, one.dtype) for one in found.tensors] == [("logits", (4, 1024, 151936), "float16")]
    assert found.frames[-1].startswith("this notebook.ForCausalLMLoss")
    facts = found.facts()
    assert facts.setup is not None
    assert (facts.setup.method, facts.setup.documents, facts.setup.length) == ("qlora", 4, 1024)
    assert "hf_" not in repr(found)


def test_nothing_of_the_user_s_is_kept_alive(shell: Any) -> None:
    code = """
import weakref
class Big: pass
def work():
    big = Big()
    refs.append(weakref.ref(big))
    raise MemoryError("Unable to allocate 9.00 GiB for an array with shape (9,) and data type int8")
work()
"""
    shell.user_ns["refs"] = refs = []
    noted(shell, code)
    # what IPython and Python themselves hold of the failed cell
    for name in ("last_type", "last_value", "last_traceback", "last_exc"):
        if hasattr(sys, name):
            delattr(sys, name)
    shell.InteractiveTB.tb = None
    shell.last_execution_result = None
    shell.run_cell("1")
    gc.collect()
    assert [one() for one in refs] == [None]
    assert FAILURES.last is not None


def test_the_record_holds_only_text_numbers_and_plain_containers(shell: Any) -> None:
    def check(value: Any) -> None:
        if isinstance(value, (str, int, float, bool, type(None))):
            return
        if isinstance(value, dict):
            for one in value.items():
                check(one)
        elif isinstance(value, tuple):
            for one in value:
                check(one)
        else:
            assert type(value).__module__.startswith("colab_magics."), type(value)
            check(vars(value))

    check(vars(noted(shell, TRAINING)))


@pytest.mark.parametrize(
    "code",
    [
        "1 + 1",
        "1 / 0",
        "1 +",
        "raise KeyboardInterrupt",
        "raise ValueError('out of memory')",
        "raise RuntimeError('size mismatch')",
        "import sys; sys.exit",
    ],
)
def test_other_cells_leave_no_note(shell: Any, code: str, capsys: Any) -> None:
    shell.run_cell(code)
    assert FAILURES.last is None
    assert "Error in callback" not in capsys.readouterr().out


def test_a_run_s_own_failure_is_told_by_its_log(shell: Any) -> None:
    shell.user_ns["ColabMagicsError"] = ColabMagicsError
    shell.run_cell(
        "raise ColabMagicsError('Out of memory at step 3.', 'CUDA out of memory. Tried to allocate 2.00 GiB.')"
    )
    assert FAILURES.last is None
    shell.run_cell("raise ColabMagicsError('Out of memory at step 3.') from MemoryError('Unable to allocate 2 GiB')")
    assert FAILURES.last is None


def test_an_error_that_another_one_covers_is_found(shell: Any) -> None:
    code = """
try:
    raise MemoryError("Unable to allocate 9.00 GiB for an array with shape (9,) and data type int8")
except MemoryError as error:
    raise ValueError("the batch is bad") from error
"""
    assert "9.00 GiB" in noted(shell, code).message


def test_in_the_very_next_cell_nothing_is_said_of_cells_since(shell: Any, capsys: Any) -> None:
    shell.user_ns["why"] = lambda: print(vram_why.why([], shell, Path("none")))
    noted(shell, "raise MemoryError")
    shell.run_cell("why()", store_history=True)
    shell.run_cell("why()", store_history=True)
    first, second = re.findall(r"'text/plain': .*", capsys.readouterr().out)
    assert "No cell has ended by such an error since" not in first
    assert "No cell has ended by such an error since" in second


def test_a_batch_that_merely_lies_in_the_notebook_is_not_told_as_the_one_in_flight(shell: Any) -> None:
    shell.run_cell("import numpy as np\ninput_ids = np.zeros((4, 16), np.int64)")
    inside = "def work():\n    raise MemoryError\nwork()"
    assert not noted(shell, inside).near
    mine = "def work(input_ids):\n    raise MemoryError\nwork(input_ids)"
    assert noted(shell, mine).near


def test_the_line_is_where_the_error_passed_and_not_where_it_was_raised_again(shell: Any) -> None:
    code = "try:\n    raise MemoryError('Unable to allocate 9.00 GiB')\nexcept MemoryError:\n    x = 1\n    raise"
    assert noted(shell, code).frames[-1] == "this notebook.<module>:2"


def test_smaller_and_smaller_batches_that_all_failed_are_noted(shell: Any) -> None:
    said = "No executable batch size found, reached zero."
    assert noted(shell, f"raise RuntimeError({said!r})").message == said
    code = f"""
try:
    raise MemoryError("Unable to allocate 9.00 GiB")
except MemoryError:
    raise RuntimeError({said!r})
"""
    assert noted(shell, code).message == "Unable to allocate 9.00 GiB", "the chain tells more"


@pytest.mark.parametrize("said", ["cuDNN error: CUDNN_STATUS_ALLOC_FAILED", "cuFFT error: CUFFT_ALLOC_FAILED"])
def test_a_library_of_cuda_that_found_no_memory_is_noted(shell: Any, said: str) -> None:
    assert noted(shell, f"raise RuntimeError({said!r})").message == said


def test_what_merely_lies_in_the_notebook_is_marked_so(shell: Any) -> None:
    shell.run_cell("import numpy as np\nlies = np.zeros((2**11, 2**10), np.int8)")
    inside = "def work():\n    mine = np.zeros((2**12, 2**10), np.int8)\n    raise MemoryError\nwork()"
    near = {one.name: one.near for one in noted(shell, inside).tensors}
    assert near == {"mine": True, "lies": False}
    near = {one.name: one.near for one in noted(shell, "raise MemoryError(str(lies.shape))").tensors}
    assert near == {"lies": True}, "the cell's own line names it"


def test_a_limit_of_the_process_is_noted(shell: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(
        resource, "getrlimit", lambda which: (2**30 if which == resource.RLIMIT_DATA else resource.RLIM_INFINITY,) * 2
    )
    found = noted(shell, "raise MemoryError('Unable to allocate 1.10 GiB')")
    assert found.process_limit == ("RLIMIT_DATA", 2**30)
    assert found.facts().process_limit == ("RLIMIT_DATA", 2**30)


def test_a_lost_context_is_noted_as_one(shell: Any) -> None:
    assert noted(shell, "raise RuntimeError('CUDA error: device-side assert triggered')").lost_context


@pytest.mark.parametrize(
    "hostile",
    [
        "class A:\n    def __getattribute__(self, name): raise SystemExit",
        "class A:\n    @property\n    def __dict__(self): raise RuntimeError('asked')",
        "class A(dict):\n    def get(self, *a): raise RuntimeError('asked')\n    def __contains__(self, k): 1 / 0",
        "class A:\n    config = property(lambda self: 1 / 0)",
        "class M(type):\n    def __getattribute__(cls, name): 1 / 0\nclass A(metaclass=M): pass",
    ],
)
def test_no_object_of_the_user_s_can_break_it_or_is_asked_anything(shell: Any, hostile: str, capsys: Any) -> None:
    code = f"{hostile}\ndef work():\n    inputs = model = self = A()\n    raise MemoryError\nwork()"
    assert noted(shell, code).message == "MemoryError"
    assert "Error in callback" not in capsys.readouterr().out


def test_whatever_ipython_passes_is_taken(capsys: Any) -> None:
    for arguments in ((), (None,), (object(),), (SimpleNamespace(error_in_exec="text"),), (1, 2, 3)):
        cell_failed(*arguments)
    assert capsys.readouterr().out == ""


def test_a_cell_that_does_not_fail_costs_less_than_a_tenth_of_a_millisecond(shell: Any) -> None:
    result = SimpleNamespace(error_in_exec=None)
    begin = time.perf_counter()
    for _ in range(1000):
        cell_failed(result)
    assert (time.perf_counter() - begin) / 1000 < 1e-4


def test_an_out_of_memory_itself_is_written_down_in_a_moment(shell: Any) -> None:
    big = {f"name_{number}": np.zeros(3) for number in range(2000)}
    shell.user_ns.update(big)
    begin = time.perf_counter()
    noted(shell, "raise MemoryError")
    assert time.perf_counter() - begin < 2


def test_in_a_kernel_a_real_out_of_memory_is_known_in_the_next_cell(kernel: Kernel) -> None:
    failed = kernel.run("import numpy as np\nbatch = np.zeros((4, 16), np.int64)\nnp.ones((2**20, 2**20, 64))")
    assert failed.status == "error"
    kernel.run("1 + 1")
    ask = "from colab_magics.magics.vram_why import why; from pathlib import Path"
    said = kernel.value(f"exec({ask!r}) or why([], get_ipython(), Path('none'))['text/plain']")
    assert "had no room for an array of 1,048,576 × 1,048,576 × 64 in float64 (512.0 TiB)" in said
    assert "torch" not in kernel.value("sorted(__import__('sys').modules)").split("'")


def test_the_hook_needs_no_torch_and_loads_nothing_heavy(shell: Any, tmp_path: Path) -> None:
    before = set(sys.modules)
    shell.run_cell("1 / 0")
    assert not {name for name in set(sys.modules) - before if name.split(".")[0] in ("torch", "transformers")}
