"""`pip install colab-magics` on stock Colab adds bitsandbytes and itself, and changes no version that is there."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

REPOSITORY = Path(__file__).resolve().parents[1]


def _requirements() -> list[Requirement]:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    return [Requirement(text) for text in project["dependencies"]]


@pytest.fixture(scope="module")
def stock_colab(shared_data: Path) -> dict[str, Version]:
    freeze = (shared_data / "platforms" / "colab-gpu-pip-freeze-2026-08-19.txt").read_text()
    pins = re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", freeze, re.MULTILINE)
    return {canonicalize_name(name): Version(version) for name, version in pins}


def test_stock_colab_satisfies_every_requirement_but_bitsandbytes(stock_colab: dict[str, Version]) -> None:
    missing = {canonicalize_name(r.name) for r in _requirements()} - stock_colab.keys()
    assert missing == {"bitsandbytes"}
    moved = [
        f"{requirement} would change {requirement.name} {stock_colab[canonicalize_name(requirement.name)]}"
        for requirement in _requirements()
        if canonicalize_name(requirement.name) in stock_colab
        and not requirement.specifier.contains(stock_colab[canonicalize_name(requirement.name)], prereleases=True)
    ]
    assert not moved, "\n".join(moved)


def test_what_kaggle_pins_is_within_our_ranges(shared_data: Path) -> None:
    lines = (shared_data / "platforms" / "kaggle-requirements-2026-08-12.txt").read_text().splitlines()
    written = filter(None, (line.split("#")[0].strip() for line in lines))
    pinned = {canonicalize_name(theirs.name): theirs for theirs in map(Requirement, written)}
    for ours in _requirements():
        theirs = pinned.get(canonicalize_name(ours.name))
        exact = [spec.version for spec in theirs.specifier if spec.operator == "=="] if theirs else []
        assert all(ours.specifier.contains(version) for version in exact), f"{ours} against Kaggle's {theirs}"


def test_the_deprecated_pynvml_distribution_is_not_asked_for() -> None:
    names = {canonicalize_name(requirement.name) for requirement in _requirements()}
    assert "nvidia-ml-py" in names
    assert "pynvml" not in names


def test_the_libraries_we_test_on_are_within_our_ranges() -> None:
    for file in ("today.txt", "colab.txt", "face.txt"):
        text = (REPOSITORY / "requirements" / file).read_text()
        pins = {canonicalize_name(n): v for n, v in re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", text, re.MULTILINE)}
        for ours in _requirements():
            version = pins.get(canonicalize_name(ours.name))
            assert version is None or ours.specifier.contains(version), f"{file}: {ours.name} {version} is not {ours}"
