"""The release: in which order, what is said of what cannot be freed. That objects die is tested in real kernels."""

from __future__ import annotations

import sys
import threading
from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from memory.pretended_cuda import GIB, PretendedCuda, PretendedDevice, pretended_torch

from colab_magics.errors import ColabMagicsError
from colab_magics.magics.vram_free import page_of
from colab_magics.memory.kept import Failure, holds_users
from colab_magics.memory.owners import UNNAMED, Owner, Survey
from colab_magics.memory.release import Released, Standing, release

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
    assert cuda.called == [
        "synchronize", "empty_cache", "ipc_collect", "clear_cublas_workspaces", "empty_cache",
    ]  # fmt: skip
    assert (done.before.reserved, done.after.reserved, done.after.allocated) == (4 * GIB, 3 * GIB // 2, GIB)
    said = page_of(done).text()
    assert said.splitlines()[0] == "2.5 GiB came back to the GPU"
    assert "This process now holds 1.5 GiB: 1.0 GiB in tensors, 512.0 MiB cached." in said
    assert "The CUDA context (about 138.0 MiB on a T4) stays until the kernel is restarted." in said


def test_the_workspaces_of_cublas_go_back_to_the_card_too(monkeypatch: pytest.MonkeyPatch, shell: Any) -> None:
    use(monkeypatch, PretendedDevice(allocated=GIB, reserved=2 * GIB), workspaces=GIB // 4)
    done = release(shell)
    assert (done.after.allocated, done.after.reserved) == (3 * GIB // 4, 3 * GIB // 4)


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


@pytest.mark.parametrize(
    ("name", "whole", "part"),
    [
        ("tr.model", "tr", "tr.model"),
        ("d[k]", "d", "d['k']"),
        ("d[0].x", "d", "d[0].x"),
        ("d[model]", "d", "d[model]"),  # a variable: which of the two was typed cannot be told
        ("Out[3].x", "Out[3]", "Out[3].x"),
    ],
)
def test_of_a_part_it_is_said_how_it_goes_and_nothing_is_removed(shell: Any, name: str, whole: str, part: str) -> None:
    shell.user_ns |= {"tr": object(), "d": {}, "_oh": {3: object()}}
    before = dict(shell.user_ns)
    with pytest.raises(ColabMagicsError) as refused:
        release(shell, ["model", name])
    assert refused.value.lines() == [
        f"{part} is a part of {whole}; nothing was removed.",
        "%vram free removes whole variables and outputs.",
        f"→ del {part} removes that part; %vram free then gives its memory back.",
        f"→ %vram free {whole} removes all of {whole}.",
    ]
    assert shell.user_ns == before


@pytest.mark.parametrize("name", ["__builtins__", "__name__", "__doc__"])
def test_what_is_pythons_own_is_not_removed(shell: Any, name: str) -> None:
    shell.user_ns[name] = object()
    with pytest.raises(ColabMagicsError, match=f"{name} is Python's own; nothing was removed"):
        release(shell, [name])
    assert name in shell.user_ns


@pytest.mark.parametrize(("package", "users"), [("colab_magics.magics", False), ("theirs", True)])
def test_a_library_that_our_own_code_has_called_holds_nothing_of_the_users(package: str, users: bool) -> None:
    called = {"__name__": package}
    exec("import json\ndef magic(): json.loads('[')", called)
    with pytest.raises(ValueError, match="Expecting value") as failed:
        exec(compile("magic()", "<ipython-input-1-0>", "exec"), {"__name__": "__main__", "magic": called["magic"]})
    assert holds_users(Failure("sys.last_exc", failed.value)) is users


def left(graphs: tuple[str, ...]) -> str:
    """What is said where something is left that no name leads to."""
    nothing = Standing(None, 0, 0)
    found = Survey((Owner(UNNAMED, "4 tensors", GIB, "cpu"),), graphs=graphs)
    return page_of(Released(nothing, nothing, False, (), found)).text()


def test_a_restart_is_advised_only_where_no_name_carries_a_graph() -> None:
    assert "restart the kernel" in left(())
    said = left(("losses", "out"))
    assert "restart the kernel" not in said
    assert "likely held by the graphs of losses, out: try %vram free losses out first." in said


def test_a_graph_that_was_looked_through_is_not_blamed_for_what_no_variable_leads_to() -> None:
    nothing = Standing(None, 0, 0)
    found = Survey((Owner(UNNAMED, "4 tensors", GIB, "cpu"),), graphs=("losses", "out"), read=("losses",))
    said = page_of(Released(nothing, nothing, False, (), found)).text()
    assert "likely held by the graph of out: try %vram free out first." in said
    said = page_of(Released(nothing, nothing, False, (), replace(found, read=found.graphs))).text()
    assert "losses" not in said
    assert "held by a library or a thread" in said
    said = page_of(Released(nothing, nothing, False, (), found, threads=("trains on",))).text()
    assert "What no variable leads to is likely held by trains on." in said
    assert "losses" not in said


def test_an_imported_module_is_refused_and_one_that_was_made_here_is_removed(shell: Any) -> None:
    shell.user_ns |= {"sys": sys, "made": ModuleType("made")}
    with pytest.raises(ColabMagicsError, match="sys is a module that was imported; nothing was removed"):
        release(shell, ["model", "sys"])
    assert {"model", "sys"} <= set(shell.user_ns)
    assert release(shell, ["made"]).removed == ("made",)


def test_all_that_is_removed_is_listed_by_name() -> None:
    nothing = Standing(None, 0, 0)
    names = tuple(f"also_{number}" for number in range(9))
    listed = [Owner(f"keep_{number}", "float32 [4]", 16, "cpu", variable=f"keep_{number}") for number in range(30)]
    listed[0] = replace(listed[0], also=names)
    said = page_of(Released(nothing, nothing, False, (), Survey()), listed, everything=True).text()
    assert [
        name for name in (*names, *(one.name for one in listed)) if name not in said.replace(",", " ").split()
    ] == []


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
