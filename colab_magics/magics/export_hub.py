"""An export to the Hub: private unless it is asked for, our own list of files, one commit."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any

from colab_magics.credentials import token_environment
from colab_magics.errors import ColabMagicsError
from colab_magics.hub import LOGIN, NoNetwork, hub_errors
from colab_magics.magics.export_files import allowed
from colab_magics.magics.parcel import README, Part

ADAPTER = "adapter_config.json"
_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Uploaded:
    """Where an export is on the Hub."""

    url: str
    private: bool
    commit: str


def check_token() -> str | None:
    """The token to write with; None for the one that the Hub's client finds itself.

    Raises
    ------
    ColabMagicsError
        There is none.
    """
    from huggingface_hub import get_token

    token = token_environment().get("HF_TOKEN")
    if token is None and get_token() is None:
        raise ColabMagicsError(
            "No Hub token was found.", "The Hub takes uploads from whoever may write there, and nobody else.", LOGIN
        )
    return token


def upload(name: str, parts: Sequence[Part], *, public: bool, force: bool, token: str | None, message: str) -> Uploaded:
    """Make the repository if there is none, and commit the parts to it at once.

    Raises
    ------
    ColabMagicsError
        The token may not write there, the repository holds files already (unless `force`) or is public (unless
        `public`), or the Hub does not answer, or answers with an error. Nothing was uploaded then.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi(token=token)
    try:
        with hub_errors(name):
            try:
                there, private = _ready(api, name, public=public, force=force)
                stale = sorted(one for one in there if allowed(one) and one not in {part.name for part in parts})
                added = [CommitOperationAdd(part.name, _content(_for_the_hub(part))) for part in parts]
                removed = [CommitOperationDelete(one) for one in stale]
                made = api.create_commit(name, [*added, *removed], commit_message=message)
            except HfHubHTTPError as error:
                status = getattr(error.response, "status_code", 0)
                if status not in (401, 403):
                    raise
                raise _no_rights(name, status) from None
    except NoNetwork as error:
        found = error.silence
        raise ColabMagicsError(f"{found.what}, and {name} was not uploaded.", found.why, found.step) from None
    return Uploaded(f"{api.endpoint}/{name}", private, str(made.oid))


def _ready(api: Any, name: str, *, public: bool, force: bool) -> tuple[list[str], bool]:
    """The files that the repository has, and whether it is private; it is made if there is none."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        api.create_repo(name, private=not public)
    except HfHubHTTPError as error:
        if getattr(error.response, "status_code", 0) != 409:
            raise
    else:
        return [], not public
    info = api.model_info(name)
    if not info.private and not public:
        raise ColabMagicsError(
            f"{name} is there already, and everybody can see it.",
            "An export is private unless --public is asked for.",
            "Add --public, or name another repository.",
        )
    files = [one.rfilename for one in info.siblings or [] if one.rfilename != ".gitattributes"]
    if files and not force:
        raise ColabMagicsError(
            f"{name} is there already, and holds {len(files)} files.",
            "An export overwrites nothing.",
            "Name another repository, or add --force: the old files stay in its history.",
        )
    return files, bool(info.private)


def _content(part: Part) -> Any:
    return part.source if part.source is not None else part.text


def _for_the_hub(part: Part) -> Part:
    """A part without a base that is no repository: the Hub would refuse it, and a path here is nobody's business."""
    if part.name == ADAPTER:
        return _named(part)
    if part.name != README:
        return part
    text = _text(part)
    found = re.search(r"^base_model: (.*)\n", text, re.MULTILINE)
    if found and not _ID.fullmatch(found[1]):
        text = text.replace(found[0], "", 1)
    return replace(part, source=None, text=text.encode())


def _named(part: Part) -> Part:
    try:
        config = json.loads(_text(part))
        base = config.get("base_model_name_or_path")
    except (ValueError, AttributeError):
        return part
    if not isinstance(base, str) or not PurePath(base).is_absolute():
        return part
    config["base_model_name_or_path"] = PurePath(base).name
    return replace(part, source=None, text=json.dumps(config, indent=2, ensure_ascii=False).encode())


def _text(part: Part) -> str:
    return (part.text if part.source is None else part.source.read_bytes()).decode("utf-8", errors="replace")


def _no_rights(name: str, status: int) -> ColabMagicsError:
    owner = name.partition("/")[0]
    if status == 401:
        return ColabMagicsError(f"The Hub does not know this token, and {name} was not uploaded.", "HTTP 401.", LOGIN)
    return ColabMagicsError(
        f"Your token may not write to {name}.",
        f"It has no right to write, or {owner} is neither you nor an organisation of yours (HTTP 403).",
        "Make one that may at https://huggingface.co/settings/tokens (role: write).",
        "Or name a repository of your own: --to hub://your-name/name.",
    )
