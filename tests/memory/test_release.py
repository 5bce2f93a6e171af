"""The release: in which order, what is said of what cannot be freed. That objects die is tested in real kernels."""

from __future__ import annotations

import sys
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from memory.pretended_cuda import GIB, PretendedCuda, PretendedDevice, pretended_torch

from colab_magics.errors import ColabMagicsError
from colab_magics.magics.vram_free import page_of
from colab_magics.memory.release import release

pytestmark = [pytest.mark.face, pytest.mark.colab]


@pytest.fixture
def shell() -> Any:
    return SimpleNamespace(user_ns={"model": object(), "_oh": {}}, displayhook=SimpleNamespace())


def use(monkeypatch: pytest.MonkeyPatch, *devices: PretendedDevice, **how: Any) -> PretendedCuda:
    torch = pretended_torch(*devices, **how)
    monkeypatch.setitem(sys.modules, "torch", torch)
    return torch.cuda  # type: ignore[no-any-return]


def test_the_cache_goes_back_to_the_card_and_the_figures_say_so(monkeypatch: pytest.MonkeyPatch, shell: Any) -> None:
    cuda = use(monkeypatch, PretendedDevice(allocated=GIB, reserved=4 * GIB, fragmented=GIB // 2))
    done = release(shell)
    assert cuda.called == ["synchronize", "empty_cache", "ipc_collect"]
    assert (done.before.reserved, done.after.reserved, done.after.allocated) == (4 * GIB, 3 * GIB // 2, GIB)
    said = page_of(done).text()
    assert said.splitlines()[0] == "2.5 GiB came back to the GPU"
    assert "This process now holds 1.5 GiB: 1.0 GiB in tensors, 512.0 MiB cached." in said
    assert "The CUDA context (about 138.0 MiB on a T4) stays until the kernel is restarted." in said


@pytest.mark.parametrize("failure", ["device-side assert triggered", "an illegal memory access was encountered"])
def test_after_a_sticky_error_the_one_thing_that_helps_is_said(
    monkeypatch: pytest.MonkeyPatch, shell: Any, failure: str
) -> None:
    use(monkeypatch, PretendedDevice(allocated=GIB, reserved=4 * GIB), failure=f"CUDA error: {failure}")
    done = release(shell)
    [said] = done.stuck
    assert said.startswith("CUDA has failed in this process (")
    assert said.endswith("frees nothing any more. Only a restart of the kernel helps.")
    assert page_of(done).text().startswith("Nothing came back to the GPU")


def test_another_refusal_is_told_in_its_own_words(monkeypatch: pytest.MonkeyPatch, shell: Any) -> None:
    use(monkeypatch, PretendedDevice(reserved=GIB), failure="captures are under way\nwith more lines")
    assert release(shell).stuck == ("torch could not give its cache back: captures are under way",)


def test_where_cuda_is_not_in_use_it_is_not_touched(monkeypatch: pytest.MonkeyPatch, shell: Any) -> None:
    cuda = use(monkeypatch, PretendedDevice(), initialised=False)
    done = release(shell)
    assert (cuda.called, cuda.contexts, done.before.reserved) == ([], set(), None)


def test_a_wrong_name_among_right_ones_removes_nothing(shell: Any) -> None:
    sys.last_value = ValueError("kept")
    try:
        with pytest.raises(ColabMagicsError, match="There is no variable modl"):
            release(shell, ["model", "modl"])
        assert "model" in shell.user_ns
        assert str(sys.last_value) == "kept"  # nor is anything else let go
    finally:
        del sys.last_value


def test_a_thread_of_the_users_that_still_runs_is_named(shell: Any) -> None:
    ending = threading.Event()

    def wait() -> None:
        ending.wait(20)

    wait.__module__ = "__main__"
    thread = threading.Thread(target=wait, name="trains on")
    thread.start()
    try:
        [said] = release(shell).stuck
        assert said.startswith("trains on is still running")
    finally:
        ending.set()
        thread.join()
    assert release(shell).stuck == ()
