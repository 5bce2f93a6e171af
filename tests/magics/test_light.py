"""What a magic has refused lets the notebook's objects die as if nothing had been asked."""

from __future__ import annotations

import pytest

from colab_magics.errors import ColabMagicsError
from colab_magics.magics.light import light

from .conftest import Kernel

pytestmark = [pytest.mark.face, pytest.mark.colab, pytest.mark.xdist_group("light")]


def test_our_error_comes_without_frames_and_another_with_all_of_its_own() -> None:
    @light
    def magic(error: Exception) -> None:
        mine = [error]
        try:
            raise KeyError
        except KeyError:
            raise mine[0] from None

    with pytest.raises(ColabMagicsError) as refused:
        magic(ColabMagicsError("no"))
    assert [entry.name for entry in refused.traceback][1:] == ["called"]
    assert refused.value.__context__ is None
    with pytest.raises(ValueError, match="theirs") as failed:
        magic(ValueError("theirs"))
    assert failed.traceback[-1].name == "magic"


@pytest.mark.parametrize("line", ["net --max-length 5", "net", "net --batch x --loss nobody", "net --batch 5 --gpu M7"])
def test_a_module_that_was_refused_dies_with_its_name(kernel: Kernel, line: str) -> None:
    pytest.importorskip("torch")
    kernel.run("import gc, torch, weakref\nnet, x = torch.nn.Linear(8, 8), torch.ones(2, 8); w = weakref.ref(net)")
    assert kernel.run(f"%vram estimate {line}").error == "ColabMagicsError"
    assert kernel.run("del net; gc.collect(); w() is None").result == "True"


def test_data_that_was_refused_dies_with_its_name(kernel: Kernel) -> None:
    kernel.run("import gc, weakref\nclass Rows(list): pass\nrows = Rows(['a', 5]); w = weakref.ref(rows)")
    assert kernel.run("%%finetune refused\nmodel: demo\ndata: rows\n").error == "ColabMagicsError"
    assert kernel.run("del rows; gc.collect(); w() is None").result == "True"
