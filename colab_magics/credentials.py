"""The Hugging Face token: found where people keep it, handed to the worker by environment and nowhere else."""

from __future__ import annotations

import os
import sys

_NAMES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_TOKEN", "HF_API_TOKEN")


def token_environment() -> dict[str, str]:
    """What to add to the worker's environment so that it may fetch gated models; empty if nothing is needed.

    The worker inherits this process's environment and reads the Hub's own login file by itself, so only the places
    that a notebook alone can see are asked here: Colab's and Kaggle's secrets. They are asked when neither of the
    others has a token, because Colab may put up a dialogue.
    """
    for name in _NAMES:
        if token := os.environ.get(name, "").strip():
            return {} if name == "HF_TOKEN" else {"HF_TOKEN": token}
    if _logged_in():
        return {}
    token = _from_colab() or _from_kaggle()
    return {"HF_TOKEN": token} if token else {}


def signed_in() -> bool:
    """Whether there is a token in any of these places; whoever asks does not get it."""
    return any(os.environ.get(name, "").strip() for name in _NAMES) or _logged_in() or bool(token_environment())


def _logged_in() -> bool:
    """Whether the Hub's login file is there; its path by the Hub's own rules, without importing the Hub."""
    from pathlib import Path

    home = os.environ.get("HF_HOME") or f"{os.environ.get('XDG_CACHE_HOME', '~/.cache')}/huggingface"
    path = Path(os.environ.get("HF_TOKEN_PATH") or f"{home}/token").expanduser()
    try:
        return path.stat().st_size > 0
    except OSError:
        return False


def _from_colab() -> str:
    if "google.colab" not in sys.modules:  # a Colab kernel has imported it before the first cell
        return ""
    try:
        from google.colab import userdata

        return str(userdata.get("HF_TOKEN") or "").strip()
    except Exception:  # no such secret, no access granted, no front end: one answer for all of them
        return ""


def _from_kaggle() -> str:
    if "KAGGLE_KERNEL_RUN_TYPE" not in os.environ:
        return ""
    try:
        from kaggle_secrets import UserSecretsClient

        return str(UserSecretsClient().get_secret("HF_TOKEN") or "").strip()
    except Exception:  # the same: no secret of that name, or no network
        return ""
