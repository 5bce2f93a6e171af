"""Run All on a real kernel with real workers: the good end, what the notebook keeps of it, and the same cell again."""

from __future__ import annotations

from typing import Any

import pytest

from .conftest import ROWS, Home, Kernel

pytestmark = [pytest.mark.colab, pytest.mark.xdist_group("cell")]

SECRET = "hf_" + "P" * 34
BODY = f"model: demo\ndata: {ROWS}\nmax_steps: 4\neffective_batch_size: 4"

DEFINITIONS = """
rows = [{'prompt': f'{n}?', 'completion': f'{n}!'} for n in range(12)]
def shout(row):
    return {**row, 'completion': row['completion'] + '!'}
"""
VARIABLES = "model: demo\ndata: rows\nformat: shout\nmax_steps: 4\neffective_batch_size: 4"


@pytest.fixture(scope="module")
def notebook(home: Home) -> Any:
    """A notebook that was run from its first cell to its last, and saved, by nbclient."""
    import nbformat
    from nbclient import NotebookClient

    cells = [
        f"import os; os.environ['HF_TOKEN'] = {SECRET[:3]!r} + {SECRET[3:]!r}\n%load_ext colab_magics",
        DEFINITIONS,
        f"%%finetune first --out run\n{VARIABLES}",
        "print(run.name, run.state, len(run.losses), run.adapter_path.name, _ is run)",
        f"%%finetune first --out again\n{VARIABLES}",
        "print(again == run, len(again.events()) == len(run.events()))",
        "%finetune list",
        "%finetune status first",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    client = NotebookClient(notebook, timeout=180, resources={"metadata": {"path": str(home.folder)}})
    client.execute(env=home.environment)
    nbformat.write(notebook, home.folder / "saved.ipynb")
    return notebook


def printed(cell: Any) -> str:
    return "".join(output["text"] for output in cell["outputs"] if output["output_type"] == "stream")


def panels(cell: Any) -> list[Any]:
    return [output["data"] for output in cell["outputs"] if output["output_type"] == "display_data"]


def test_run_all_trains_and_binds_the_run(notebook: Any) -> None:
    assert printed(notebook.cells[3]).split() == ["first", "finished", "4", "adapter", "True"]


def test_the_rows_that_were_trained_are_those_that_the_function_made(notebook: Any, home: Home) -> None:
    rows = (home.runs / "first" / "data" / "train.jsonl").read_text()
    assert '"7!!"' in rows


def test_the_saved_notebook_holds_the_last_frame_and_below_it_plan_and_data(notebook: Any, home: Home) -> None:
    import nbformat

    saved = nbformat.read(home.folder / "saved.ipynb", as_version=4)
    frame, settled = panels(saved.cells[2])
    assert set(frame) == set(settled) == {"text/html", "text/plain"}
    assert "<details>" in settled["text/html"]
    assert "precision" in settled["text/plain"]
    for form in frame.values():
        assert "finished" in form
        assert "step 4 of 4" in form
    assert "adapter" in frame["text/plain"]
    assert len(frame["text/html"]) < 20_000
    assert "widgets" not in saved.metadata


def test_the_same_cell_again_shows_the_result_and_trains_nothing(notebook: Any) -> None:
    assert "--again" in printed(notebook.cells[4])
    assert "finished" in panels(notebook.cells[4])[0]["text/plain"]
    assert printed(notebook.cells[5]).split() == ["True", "True"]


def test_list_and_status_show_the_run(notebook: Any) -> None:
    assert "first  finished  4/4" in printed(notebook.cells[6])
    assert "finished" in panels(notebook.cells[7])[0]["text/plain"]


def test_a_token_of_the_environment_is_in_no_file_no_log_and_no_saved_notebook(notebook: Any, home: Home) -> None:
    assert home.traces(SECRET) == []


def test_nothing_is_left_running_or_lying_about(notebook: Any, home: Home) -> None:
    from colab_magics import worker

    assert [path.name for path in home.runs.iterdir()] == ["first"]
    assert not worker.is_alive(home.runs / "first")


def test_recipe_prints_every_key_and_the_reason_of_what_was_chosen_and_leaves_no_trace(
    kernel: Kernel, home: Home, notebook: Any
) -> None:
    reply = kernel.run(f"%finetune recipe --model demo --data {ROWS}")
    assert "learning_rate:" in reply.text
    assert "# " in reply.text.split("precision:")[1].split("\n")[0]
    assert [path.name for path in home.runs.iterdir()] == ["first"]


def test_recipe_of_a_run_is_read_from_its_folder(kernel: Kernel, notebook: Any) -> None:
    assert "max_steps: 4" in kernel.run("%finetune recipe first").text


def test_data_shows_counts_lengths_and_one_sample_with_the_trained_part_marked(
    kernel: Kernel, home: Home, notebook: Any
) -> None:
    reply = kernel.run(f"%%finetune data\nmodel: demo\ndata: {ROWS}\nmax_length: 48")
    ((frame,),) = reply.displays.values()
    assert "160" in frame["text/plain"]
    assert "p50" in frame["text/plain"]
    assert "truncated" in frame["text/plain"]
    assert "⟦" in frame["text/plain"]
    assert "<mark>" in frame["text/html"]


def test_what_only_the_worker_can_find_ends_the_cell_too_and_leaves_no_trace(
    kernel: Kernel, home: Home, notebook: Any
) -> None:
    reply = kernel.run(f"%%finetune second\n{BODY}\ntarget_modules: [nowhere_proj]")
    assert reply.error == "ColabMagicsError"
    assert "nowhere_proj" in "\n".join(reply.traceback)
    assert 2 <= len(reply.traceback) <= 8
    assert [path.name for path in home.runs.iterdir()] == ["first"]
    assert "failed" in reply.panel[-1]["text/plain"]


def test_the_kernel_itself_has_imported_no_library_that_trains(kernel: Kernel, notebook: Any) -> None:
    names = ["torch", "transformers", "peft", "datasets", "bitsandbytes", "ipywidgets"]
    assert kernel.value(f"[name for name in {names} if name in __import__('sys').modules]") == "[]"


def test_the_numbers_are_there_where_html_is_made_of_the_notebook(notebook: Any) -> None:
    from nbconvert import HTMLExporter

    page, _ = HTMLExporter().from_notebook_node(notebook)
    assert "step 4 of 4" in page
    assert "<svg" in page


def test_a_hub_model_that_is_not_to_be_had_ends_the_cell_with_its_name(kernel: Kernel, notebook: Any) -> None:
    reply = kernel.run(f"%%finetune second --panel off\nmodel: nobody/nothing\ndata: {ROWS}")
    assert reply.error == "ColabMagicsError"
    assert "nobody/nothing" in "\n".join(reply.traceback)
    assert reply.displays == {}
