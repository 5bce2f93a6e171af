"""`%vram free` in real kernels: whatever held an object of a cell that is over, it is dead in the very next cell."""

from __future__ import annotations

import pytest

from .conftest import Kernel
from .holders import SCENARIOS, SETUP, Scenario, lives, play

pytestmark = [pytest.mark.face, pytest.mark.colab, pytest.mark.xdist_group("vram-free")]


@pytest.fixture(scope="module")
def notebook(kernel: Kernel) -> Kernel:
    assert kernel.run(SETUP).status == "ok"
    return kernel


@pytest.mark.parametrize("scenario", SCENARIOS, ids=[one.name for one in SCENARIOS])
def test_what_a_cell_has_left_is_dead_in_the_next_cell(notebook: Kernel, scenario: Scenario) -> None:
    play(notebook, scenario)
    assert not lives(notebook, f"%vram free {scenario.free}")


def test_without_the_release_it_would_live_on(notebook: Kernel) -> None:
    for scenario in SCENARIOS:
        play(notebook, scenario)
        assert lives(notebook, "import gc; gc.collect();"), scenario.name


def test_without_names_no_variable_and_no_output_is_removed(notebook: Kernel) -> None:
    notebook.run("kept = Held()\nkept")
    assert lives(notebook, "%vram free")
    assert notebook.value("[kept is Held.seen[-1](), any(one is kept for one in Out.values()), _ is kept]") == (
        "[True, True, True]"
    )


def test_a_wrong_name_is_told_with_the_nearest_and_nothing_is_removed(notebook: Kernel) -> None:
    notebook.run("model, optimizer = Held(), Held()")
    reply = notebook.run("%vram free optimizer modle")
    assert reply.error == "ColabMagicsError"
    assert reply.traceback == [
        "There is no variable modle; nothing was removed.",
        "%vram free takes names of variables, Out[5] for one output, and Out for all.",
        "→ Did you mean model?",
    ]
    assert notebook.value("[type(model).__name__, type(optimizer).__name__]") == "['Held', 'Held']"


def test_of_a_part_it_is_said_how_to_delete_it(notebook: Kernel) -> None:
    notebook.run("d = {'k': Held()}")
    refused = notebook.run("%vram free d['k']")
    assert "→ del d['k'] removes that part; %vram free then gives its memory back." in refused.traceback
    assert not lives(notebook, "del d['k']\n%vram free")


@pytest.mark.parametrize("name", ["get_ipython", "In", "_ih", "__builtins__", "Out[999]", "_999"])
def test_what_is_ipythons_own_or_not_there_is_no_variable(notebook: Kernel, name: str) -> None:
    assert notebook.run(f"%vram free {name}").error == "ColabMagicsError"


def test_one_output_is_removed_by_its_number_and_the_others_stay(notebook: Kernel) -> None:
    notebook.run("Held()")
    notebook.run("'this one stays'")
    cell = int(notebook.value("max(Out)")) - 1
    assert not lives(notebook, f"%vram free Out[{cell}]")
    assert (
        notebook.value(f"Out[{cell + 1}], {cell} in Out, '_{cell}' in globals()") == "('this one stays', False, False)"
    )


def test_what_the_cell_just_before_has_shown_is_dead_at_once(notebook: Kernel) -> None:
    notebook.run("Held()")  # its result lives until the next cell has ended
    assert not lives(notebook, "%vram free Out")


@pytest.mark.parametrize("failing", ["%vram fre", "%vram free nobody", "1 / 0", "1 +", "%nosuch", "nobody"])
def test_of_an_error_that_holds_nothing_of_the_users_nothing_is_said(notebook: Kernel, failing: str) -> None:
    notebook.run("%vram free")
    notebook.run(failing)
    [[frame]] = notebook.run("%vram free").displays.values()
    assert "Let go" not in frame["text/plain"]


@pytest.mark.parametrize("failing", ["train_step()", "import json; json.loads('[')", "(lambda: 1 / 0)()"])
def test_of_one_that_ran_code_of_the_users_or_a_librarys_it_is(notebook: Kernel, failing: str) -> None:
    notebook.run(failing)
    [[frame]] = notebook.run("%vram free").displays.values()
    assert "Let go: the traceback of the failed cell" in frame["text/plain"]


def test_outputs_are_kept_as_ever_afterwards(notebook: Kernel) -> None:
    notebook.run("Held()")
    notebook.run("%vram free Out")
    notebook.run("'first'")
    assert notebook.run("_").result == "'first'"
    notebook.run("'second'")
    assert notebook.run("_, __").result == "('second', 'first')"


def test_it_says_what_was_let_go_and_what_is_left(notebook: Kernel) -> None:
    notebook.run("train_step()")
    reply = notebook.run("%vram free")
    [[frame]] = reply.displays.values()
    lines = frame["text/plain"].splitlines()
    assert lines[0].endswith("came back to the machine")
    assert lines[1] == "Let go: the traceback of the failed cell (%debug and %tb have nothing to show any more)."
    assert lines[2].startswith("This process now holds ")
    assert 'class="cm-grid ' in frame["text/html"]


def test_who_else_holds_what_was_removed_is_said_with_the_line_that_removes_it(notebook: Kernel) -> None:
    pytest.importorskip("torch")
    notebook.run("import torch\nm = torch.nn.Linear(1000, 1000)\nsd, other = m.state_dict(), torch.ones(2**20)\n")
    notebook.run("loss_hist = [m(torch.ones(1, 1000)).sum()]")
    [[frame]] = notebook.run("%vram free m").displays.values()
    said = frame["text/plain"].splitlines()[-1]
    assert said == (
        "Of what was removed, 3.8 MiB is still held by sd, loss_hist: %vram free sd loss_hist removes that too."
    )
    [[frame]] = notebook.run("%vram free sd loss_hist").displays.values()
    assert "Of what was removed" not in frame["text/plain"]


def test_many_small_blocks_come_back_to_the_machine_too(notebook: Kernel) -> None:
    notebook.run("blocks = [bytearray(4096) for _ in range(40_000)]; kept = blocks[::400]")
    [[frame]] = notebook.run("%vram free blocks").displays.values()
    assert frame["text/plain"].startswith("1")
    assert "MiB came back to the machine" in frame["text/plain"]
