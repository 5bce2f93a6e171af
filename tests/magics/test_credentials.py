"""Where a Hub token is found, and that it goes nowhere but into the worker's environment."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from colab_magics.credentials import signed_in, token_environment

pytestmark = pytest.mark.face

TOKEN = "hf_" + "a" * 34


@pytest.fixture(autouse=True)
def a_machine_without_a_login(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_TOKEN", "HF_API_TOKEN", "HF_TOKEN_PATH",
                 "KAGGLE_KERNEL_RUN_TYPE"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))


def colab_with(monkeypatch: pytest.MonkeyPatch, secrets: dict[str, str]) -> None:
    class Userdata(ModuleType):
        @staticmethod
        def get(key: str) -> str:
            return secrets[key]

    google, colab = ModuleType("google"), ModuleType("google.colab")
    colab.userdata = Userdata("userdata")  # type: ignore[attr-defined]
    google.colab = colab  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "google", google)
    monkeypatch.setitem(sys.modules, "google.colab", colab)


def test_nothing_is_added_where_there_is_no_token() -> None:
    assert token_environment() == {}


def test_the_environment_is_inherited_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert token_environment() == {}


def test_an_older_name_of_the_variable_is_handed_on_by_its_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUGGINGFACE_TOKEN", TOKEN)
    assert token_environment() == {"HF_TOKEN": TOKEN}


def test_colabs_secret_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    colab_with(monkeypatch, {"HF_TOKEN": TOKEN})
    assert token_environment() == {"HF_TOKEN": TOKEN}


def test_a_secret_that_colab_does_not_have_or_give_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    colab_with(monkeypatch, {})
    assert token_environment() == {}


def test_kaggles_secret_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    class UserSecretsClient:
        def get_secret(self, name: str) -> str:
            return {"HF_TOKEN": TOKEN}[name]

    module = ModuleType("kaggle_secrets")
    module.UserSecretsClient = UserSecretsClient  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "kaggle_secrets", module)
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    assert token_environment() == {"HF_TOKEN": TOKEN}


def test_a_login_file_is_left_to_the_worker_and_no_secret_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text(TOKEN)
    colab_with(monkeypatch, {"HF_TOKEN": "hf_" + "b" * 34})
    assert token_environment() == {}


def test_whether_there_is_a_token_is_told_without_the_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert not signed_in()
    with monkeypatch.context() as patched:
        colab_with(patched, {"HF_TOKEN": TOKEN})
        assert signed_in() is True
    with monkeypatch.context() as patched:
        patched.setenv("HF_TOKEN", TOKEN)
        assert signed_in() is True
    (tmp_path / "token").write_text(TOKEN)
    assert signed_in() is True
