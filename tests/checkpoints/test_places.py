"""Where a run without a name is looked for, and where it is copied to if nobody says."""

from __future__ import annotations

from pathlib import Path, PurePath

from checkpoints import copies
from colab_magics.checkpoints.mounts import Mount
from colab_magics.checkpoints.places import Default, default_replica, holding_runs, places

DRIVE = [Mount(PurePath("/"), "overlay", "overlay"), Mount(PurePath("/content/drive"), "fuse.drive", "drive")]
NO_DRIVE = DRIVE[:1]


def test_the_nearest_place_comes_first(tmp_path: Path) -> None:
    copies.make_run(tmp_path / "input" / "my-notebook" / "runs")
    found = places(
        tmp_path / "runs",
        {"COLAB_MAGICS_REPLICA": "s3://bucket/runs"},
        among=DRIVE,
        kaggle_input=tmp_path / "input",
    )
    assert [place.where for place in found] == [
        str(tmp_path / "runs"),
        "s3://bucket/runs",
        "/content/drive/MyDrive/colab_magics/checkpoints",
        str(tmp_path / "input" / "my-notebook" / "runs"),
    ]
    assert [place.read_only for place in found] == [False, False, False, True]
    assert found[0].is_root
    assert found[3].label == "Kaggle's input my-notebook/runs"


def test_a_place_that_is_named_twice_is_shown_once(tmp_path: Path) -> None:
    found = places(tmp_path, {"COLAB_MAGICS_REPLICA": str(tmp_path)}, among=NO_DRIVE, kaggle_input=tmp_path / "none")
    assert [place.where for place in found] == [str(tmp_path)]
    assert found[0].is_root


def test_kaggles_inputs_are_searched_to_a_bound_and_through_no_link(tmp_path: Path) -> None:
    copies.make_run(tmp_path / "datasets" / "me" / "copy" / "v2")
    copies.make_run(tmp_path / "deep" / "1" / "2" / "3" / "4" / "5" / "6")
    (tmp_path / "linked").symlink_to(tmp_path / "datasets")
    (tmp_path / "linked-runs" / "x").mkdir(parents=True)
    (tmp_path / "linked-runs" / "x" / "run").symlink_to(tmp_path / "datasets" / "me" / "copy" / "v2" / "kwanzaa")
    assert holding_runs(tmp_path) == [tmp_path / "datasets" / "me" / "copy" / "v2"]
    assert holding_runs(tmp_path, most=2) == []
    assert holding_runs(tmp_path / "none") == []


def test_the_recipe_comes_before_config_before_the_environment_before_drive() -> None:
    environ = {"COLAB_MAGICS_REPLICA": "gs://env"}
    assert default_replica(environ, recipe="s3://recipe", configured="s3://config", among=DRIVE) == Default(
        "s3://recipe", "recipe"
    )
    assert default_replica(environ, configured="s3://config", among=DRIVE) == Default("s3://config", "config")
    assert default_replica(environ, among=DRIVE) == Default("gs://env", "COLAB_MAGICS_REPLICA")
    assert default_replica({}, among=DRIVE) == Default("/content/drive/MyDrive/colab_magics/checkpoints", "drive")
    assert default_replica({"COLAB_MAGICS_REPLICA": " "}, recipe="", among=NO_DRIVE) is None


def test_a_folder_is_named_from_the_root_on() -> None:
    assert default_replica({}, recipe="copies", among=[]) == Default(str(Path("copies").absolute()), "recipe")
