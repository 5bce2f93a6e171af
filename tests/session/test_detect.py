"""Which platform this is: each is known by what it sets, and by nothing that others have too."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

from colab_magics.session.detect import VARIABLE, detect, is_batch, on_colab, on_kaggle
from colab_magics.session.table import load_table

from .pretended import colab_machine, gpu

pytestmark = [pytest.mark.face, pytest.mark.colab]

COLAB = ("sys", "google.colab", "IPython")
HOSTED = {
    "COLAB_RELEASE_TAG": "release-colab-external_20261015",
    "COLAB_GPU": "1",
    "TBE_RUNTIME_ADDR": "172.28.0.1:8011",
}


@pytest.mark.parametrize(
    ("environ", "modules", "key"),
    [
        (HOSTED, COLAB, "colab-free"),
        ({"COLAB_RELEASE_TAG": "release-colab"}, (), "colab-local"),
        ({}, COLAB, "colab-local"),
        ({"VERTEX_PRODUCT": "COLAB_ENTERPRISE", **HOSTED}, COLAB, "colab-enterprise"),
        ({"KAGGLE_KERNEL_RUN_TYPE": "Interactive"}, (), "kaggle"),
        ({"KAGGLE_KERNEL_RUN_TYPE": "Batch"}, (), "kaggle-batch"),
        ({"LIGHTNING_CLOUD_SPACE_ID": "01j"}, (), "lightning"),
        ({"PAPERSPACE_NOTEBOOK_REPO_ID": "r1"}, (), "paperspace"),
        ({"PAPERSPACE_CLUSTER_ID": "c1"}, (), "paperspace"),
        ({"RUNPOD_POD_ID": "p1"}, (), "runpod"),
        ({"HOME": "/root"}, ("sys",), "plain"),
    ],
)
def test_a_platform_is_known_by_what_it_sets(
    environ: dict[str, str], modules: tuple[str, ...], key: str, tmp_path: Path
) -> None:
    found = detect(environ, modules, tmp_path)
    assert found.key == key
    assert found.evidence
    assert key in load_table().platforms


def test_the_variable_wins_over_every_mark(tmp_path: Path) -> None:
    environ = {**HOSTED, "KAGGLE_KERNEL_RUN_TYPE": "Batch", VARIABLE: "runpod"}
    assert detect(environ, COLAB, tmp_path) == ("runpod", VARIABLE)


def test_kaggle_is_not_taken_for_colab_although_its_image_is_built_on_colabs(tmp_path: Path) -> None:
    environ = {"COLAB_RELEASE_TAG": "release-colab", "KAGGLE_KERNEL_RUN_TYPE": "Interactive"}
    assert detect(environ, COLAB, tmp_path).key == "kaggle"


def test_colabs_machine_is_known_by_its_file_where_a_terminal_has_no_variables(tmp_path: Path) -> None:
    assert detect({}, (), colab_machine(tmp_path)).key == "colab-free"


@pytest.mark.parametrize("model", ["NVIDIA L4", "NVIDIA A100-SXM4-40GB", "NVIDIA H100 80GB HBM3"])
def test_a_gpu_that_colab_free_does_not_give_is_paid_for(model: str, tmp_path: Path) -> None:
    found = detect(HOSTED, COLAB, gpu(tmp_path, model))
    assert found == ("colab-pro", f"{model}, which Colab Free does not give")


def test_a_t4_on_colab_says_nothing_of_the_plan_and_the_evidence_says_so(tmp_path: Path) -> None:
    found = detect(HOSTED, COLAB, gpu(tmp_path, "Tesla T4"))
    assert found.key == "colab-free"
    assert "plan cannot be seen" in found.evidence


def test_studio_lab_is_known_by_its_home(tmp_path: Path) -> None:
    environ = {"HOME": "/home/studio-lab-user"}
    assert detect(environ, (), tmp_path).key == "plain", "a variable alone may be set anywhere"
    (tmp_path / "home/studio-lab-user").mkdir(parents=True)
    assert detect(environ, (), tmp_path).key == "sagemaker-studio-lab"


def test_folders_that_scripts_make_elsewhere_are_no_mark(tmp_path: Path) -> None:
    for folder in ("content", "content/drive/MyDrive", "storage", "notebooks", "workspace", "kaggle/working"):
        (tmp_path / folder).mkdir(parents=True)
    assert detect({}, (), tmp_path).key == "plain"


def test_a_project_of_lightnings_on_ones_own_machine_is_no_studio(tmp_path: Path) -> None:
    assert detect({"LIGHTNING_CLOUD_PROJECT_ID": "01h"}, (), tmp_path).key == "plain"


def test_no_secret_that_a_platform_sets_gets_into_the_evidence(tmp_path: Path) -> None:
    secrets = {"KAGGLE_USER_SECRETS_TOKEN": "hush-1", "LIGHTNING_API_KEY": "hush-2", "RUNPOD_API_KEY": "hush-3"}
    for marks in (
        HOSTED,
        {"KAGGLE_KERNEL_RUN_TYPE": "Batch"},
        {"LIGHTNING_CLOUD_SPACE_ID": "x"},
        {"RUNPOD_POD_ID": "x"},
    ):
        assert "hush" not in detect({**secrets, **marks}, COLAB, tmp_path).evidence


def test_a_kernel_is_colabs_if_it_has_imported_colabs_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "google.colab", raising=False)
    assert not on_colab()
    monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
    assert on_colab()


@pytest.mark.parametrize(
    ("environ", "kaggle", "batch"),
    [
        ({}, False, False),
        ({"KAGGLE_KERNEL_RUN_TYPE": "Interactive"}, True, False),
        ({"KAGGLE_KERNEL_RUN_TYPE": "Batch"}, True, True),
        ({"KAGGLE_KERNEL_RUN_TYPE": ""}, False, False),
    ],
)
def test_a_batch_run_ends_with_its_last_cell(
    environ: dict[str, str], kaggle: bool, batch: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (on_kaggle(environ), is_batch(environ)) == (kaggle, batch)
    monkeypatch.delenv("KAGGLE_KERNEL_RUN_TYPE", raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert (on_kaggle(), is_batch()) == (kaggle, batch)


def test_this_very_machine_is_some_platform() -> None:
    assert detect(os.environ, sys.modules).key in load_table().platforms
