"""Which folders outlive the session, and where a file of rows is looked for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from colab_magics.data import resolve
from colab_magics.errors import ColabMagicsError
from colab_magics.session import search
from colab_magics.session.folders import Searched, layout, searched
from colab_magics.session.table import Platform

pytestmark = pytest.mark.face

DRIVE = "/content/drive/MyDrive"


def platform(key: str, persistent: str | None) -> Platform:
    return Platform(key, key, "2026-10-01", persistent=persistent)


def written(path: Path, text: str = '{"text": "a"}\n') -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


# --- where they are --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "persistent", "cwd", "root"),
    [
        ("colab-free", DRIVE, "/content", f"{DRIVE}/colab_magics"),
        ("colab-pro", DRIVE, f"{DRIVE}/my notebooks", f"{DRIVE}/colab_magics"),
        ("kaggle", "/kaggle/working", "/kaggle/working", "/kaggle/working"),
        ("lightning", "/teamspace/studios/this_studio", "/teamspace/studios/this_studio/poc",
         "/teamspace/studios/this_studio/poc"),
        ("paperspace", "/storage", "/notebooks", "/storage/colab_magics"),
        ("runpod", "/workspace", "/workspace", "/workspace"),
        ("runpod", "/workspace", "/root", "/workspace/colab_magics"),
        ("plain", None, "/home/ada/poc", "/home/ada/poc"),
    ],
)  # fmt: skip
def test_the_folders_stand_where_the_notebook_is_if_that_stays_and_else_where_something_does(
    key: str, persistent: str | None, cwd: str, root: str
) -> None:
    paths = layout(platform(key, persistent), Path(cwd))
    assert paths.root == Path(root)
    assert {name: str(path.relative_to(root)) for name, path in paths.folders.items()} == {
        "root": ".",
        "checkpoints": "checkpoints",
        "logs": "logs",
        "outputs": "outputs",
        "datasets": "datasets",
    }


@pytest.mark.parametrize(
    ("key", "persistent", "cwd", "first", "among"),
    [
        ("colab-free", DRIVE, "/content", f"{DRIVE}/colab_magics/datasets", f"{DRIVE}/datasets"),
        ("kaggle", "/kaggle/working", "/kaggle/working", "/kaggle/working/datasets", "/kaggle/input"),
        ("kaggle-batch", "/kaggle/working", "/kaggle/working", "/kaggle/working/datasets", "/kaggle/input"),
        ("lightning", "/teamspace/studios/this_studio", "/tmp", "/teamspace/studios/this_studio/colab_magics/datasets",
         "/teamspace/uploads"),
        ("paperspace", "/storage", "/notebooks", "/storage/colab_magics/datasets", "/storage"),
        ("plain", None, "/home/ada", "/home/ada/datasets", "/home/ada/datasets"),
    ],
)  # fmt: skip
def test_data_is_looked_for_where_the_platform_puts_it_and_nowhere_twice(
    key: str, persistent: str | None, cwd: str, first: str, among: str
) -> None:
    folders = [str(place.folder) for place in searched(platform(key, persistent), Path(cwd))]
    assert folders[0] == first
    assert among in folders
    assert len(folders) == len(set(folders))


def test_only_what_is_on_no_disk_of_ours_is_left_to_a_child() -> None:
    assert all(place.may_hang for place in searched(platform("colab-free", DRIVE), Path("/content"))[:2])
    assert not any(place.may_hang for place in searched(platform("kaggle", "/kaggle/working"), Path("/kaggle/working")))


# --- looking ---------------------------------------------------------------------------------------------------------


def test_the_first_place_that_has_it_wins_and_is_named(tmp_path: Path) -> None:
    places = [Searched(tmp_path / name, name.title(), deep=2) for name in ("none", "first", "second")]
    written(tmp_path / "second" / "rows.jsonl")
    wanted = written(tmp_path / "first" / "me" / "v1" / "rows.jsonl")
    assert search.find("rows.jsonl", places) == (wanted, f"First: {wanted}")


def test_the_nearest_to_the_top_wins_and_a_link_is_not_followed(tmp_path: Path) -> None:
    wanted = written(tmp_path / "a" / "rows.jsonl")
    written(tmp_path / "a" / "deep" / "rows.jsonl")
    written(tmp_path / "beside" / "elsewhere" / "rows.jsonl")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "linked").symlink_to(tmp_path / "beside")
    assert search.below("rows.jsonl", tmp_path, 1) == [wanted]
    assert search.below("rows.jsonl", tmp_path / "c", 3) == []
    assert search.below("rows.jsonl", tmp_path / "none", 3) == []


def test_a_path_within_an_input_is_found_too(tmp_path: Path) -> None:
    wanted = written(tmp_path / "me" / "set" / "train" / "rows.csv")
    assert search.below("train/rows.csv", tmp_path, 4) == [wanted]


def test_two_inputs_with_the_same_file_are_not_chosen_between(tmp_path: Path) -> None:
    written(tmp_path / "a" / "train.csv")
    written(tmp_path / "b" / "train.csv")
    with pytest.raises(ColabMagicsError) as refused:
        search.find("train.csv", [Searched(tmp_path, "Kaggle's input", deep=1)])
    assert refused.value.lines() == [
        "Kaggle's input has 2 files called train.csv.",
        f"They are {tmp_path}/a/train.csv, {tmp_path}/b/train.csv.",
        f"→ Say which one: data: {tmp_path}/a/train.csv",
    ]


def test_a_child_looks_where_a_call_may_hang(tmp_path: Path) -> None:
    wanted = written(tmp_path / "rows.jsonl")
    assert search.find("rows.jsonl", [Searched(tmp_path, "Drive", may_hang=True)]) == (wanted, f"Drive: {wanted}")
    assert search.find("none.jsonl", [Searched(tmp_path, "Drive", may_hang=True)]) == (None, str(tmp_path))


def test_a_child_that_does_not_answer_is_left_behind_and_the_rest_is_looked_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hung = tmp_path / "python"
    hung.write_text("#!/bin/sh\nexec sleep 20\n")
    hung.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(hung))
    wanted = written(tmp_path / "here" / "rows.jsonl")
    places = [Searched(tmp_path, "Drive", may_hang=True), Searched(tmp_path / "here", "Here")]
    assert search.find("rows.jsonl", places, timeout=0.2) == (wanted, f"Here: {wanted}")
    assert search.find("none.jsonl", places[:1], timeout=0.2) == (None, f"{tmp_path} (it does not answer)")


def test_of_a_mount_that_does_not_answer_no_other_folder_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []
    monkeypatch.setattr(search, "_asked", lambda _, place, __: asked.append(place.folder))
    drive, other = Path("/content/drive/MyDrive"), Path("/datasets")
    places = [Searched(one, "", may_hang=True) for one in (drive / "colab_magics/datasets", drive / "datasets", other)]
    found, looked = search.find("rows.jsonl", places)
    assert found is None
    assert looked.split(", ") == [
        f"{drive}/colab_magics/datasets (it does not answer)",
        f"{drive}/datasets (not asked: on the same mount)",
        "/datasets (it does not answer)",
    ]
    assert asked == [places[0].folder, other]


def test_a_file_beside_the_notebook_and_a_variable_come_first_and_a_hub_id_is_not_looked_for(tmp_path: Path) -> None:
    def looked(text: str) -> tuple[Path | None, str]:
        raise AssertionError(f"{text} was looked for")

    written(tmp_path / "rows.jsonl")
    assert resolve("rows.jsonl", {}, cwd=tmp_path, find=looked).found is None
    assert resolve("a.jsonl", {"a.jsonl": [{}]}, cwd=tmp_path, find=looked).kind == "variable"
    assert resolve("org/name", {}, cwd=tmp_path, find=looked).kind == "hub"
    for named in ("./a.jsonl", "~/a.jsonl", f"{tmp_path}/a.jsonl", "../a.jsonl"):
        with pytest.raises(ColabMagicsError, match="does not exist"):
            resolve(named, {}, cwd=tmp_path, find=looked)


def test_what_is_found_elsewhere_is_a_file_like_any_other(tmp_path: Path) -> None:
    wanted = written(tmp_path / "far" / "rows.jsonl")
    source = resolve("rows.jsonl", {}, cwd=tmp_path, find=lambda _: (wanted, "Drive: there"))
    assert (source.name, source.path, source.found) == ("rows.jsonl", str(wanted), "Drive: there")
    assert type(source).from_dict(json.loads(json.dumps(source.to_dict()))) == source
    empty = written(tmp_path / "far" / "empty.jsonl", "")
    with pytest.raises(ColabMagicsError, match=r"far/empty\.jsonl is empty"):
        resolve("empty.jsonl", {}, cwd=tmp_path, find=lambda _: (empty, "there"))


def test_what_is_found_nowhere_is_told_with_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(ColabMagicsError, match="; it was looked for in /kaggle/input too"):
        resolve("rows.jsonl", {}, cwd=tmp_path, find=lambda _: (None, "/kaggle/input"))


def test_the_child_imports_nothing_heavy(tmp_path: Path) -> None:
    written(tmp_path / "rows.jsonl")
    code = (
        "import sys, colab_magics.session.search; print([m for m in ('numpy', 'torch', 'psutil') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ})
    assert done.stdout.strip() == "[]"


def test_whether_a_file_of_rows_is_here_is_told_by_the_same_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLAB_MAGICS_PLATFORM", "plain")
    assert not search.is_here("rows.jsonl")
    written(tmp_path / "datasets" / "rows.jsonl")
    assert search.is_here("rows.jsonl")
    written(tmp_path / "more.jsonl")
    assert search.is_here("more.jsonl")
