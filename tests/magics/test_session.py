"""`%session` in a shell, in a kernel and in a terminal: what it shows, what can be set, and the folders it makes."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path, PurePath
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

import colab_magics.__main__ as terminal
from colab_magics import worker
from colab_magics.checkpoints.mounts import Mount
from colab_magics.errors import ColabMagicsError
from colab_magics.magics import durable, session_facts, session_now, session_setup
from colab_magics.magics.checkpoint import configured_replica
from colab_magics.magics.completion import complete
from colab_magics.magics.session_line import COMMANDS
from colab_magics.magics.session_show import Known, html, rows, text
from colab_magics.session.flags import Facts, Usage, flags
from colab_magics.session.folders import Paths
from colab_magics.session.here import Session
from colab_magics.session.table import load_table

from .conftest import Home, Kernel

pytestmark = [pytest.mark.face, pytest.mark.xdist_group("session")]

HOUR, GIB, GB = 3600.0, 2.0**30, 1e9
NOW = datetime(2026, 11, 21, 14, 5, tzinfo=timezone.utc)
TABLE = load_table()
FACTS = Facts(
    memory=(Usage("Tesla T4", 5.2 * GIB, 14.56 * GIB),),
    ram=Usage("RAM", 4 * GIB, 12.7 * GIB),
    disk=Usage("/content", 40 * GB, 78 * GB),
    drive=Usage("Drive", 4 * GB, 15 * GB),
)


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A shell of a machine of one's own, whose working directory and settings are the test's."""
    (tmp_path / "notebook").mkdir()
    monkeypatch.chdir(tmp_path / "notebook")
    monkeypatch.setenv("COLAB_MAGICS_SESSION", str(tmp_path / "session.toml"))
    monkeypatch.setenv("COLAB_MAGICS_PLATFORM", "plain")
    monkeypatch.delenv("COLAB_MAGICS_ROOT", raising=False)
    monkeypatch.delenv("COLAB_MAGICS_REPLICA", raising=False)
    shell = InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    shell.user_ns["get_ipython"] = lambda: shell
    shell.run_line_magic("load_ext", "colab_magics")
    yield shell
    shell.run_line_magic("unload_ext", "colab_magics")
    InteractiveShell.clear_instance()


def known(key: str, *, age: float = 3 * HOUR, facts: Facts = FACTS, **changes: Any) -> Known:
    """What would be shown on a platform; `changes` are of the session, or of what is known."""
    platform = TABLE.platforms[key]
    own = {name: changes.pop(name) for name in ("limit", "limit_from") if name in changes}
    here = Session(platform, "a mark", age, **{"limit": platform.limit, **own})
    facts = replace(facts, session=here)
    fields: dict[str, Any] = {
        "session": here,
        "table": TABLE,
        "facts": facts,
        "flags": flags(facts, TABLE.thresholds),
        "start_is_set": False,
        "since_last": 720.0,
        "devices": tuple(one.name for one in facts.memory),
        "drive": "mounted",
        "cwd": Path("/content"),
        "now": NOW,
    }
    return Known(**{**fields, **changes})


def shown(key: str, **changes: Any) -> dict[str, str]:
    """Value and note of each row, by its label."""
    return {label: f"{value} {note}".strip() for label, value, note in rows(known(key, **changes))}


# --- what is shown ---------------------------------------------------------------------------------------------------


def test_time_is_told_with_what_it_rests_on() -> None:
    told = shown("colab-free")
    assert told["running for"] == "3 h since 11:05 UTC, when this machine was started"
    assert told["time limit"] == "12 h estimate, as of 2026-10-01"
    assert told["left"] == "9 h until about 23:05 UTC; a run saves 15 min and stops 5 min before"
    assert told["idle limit"] == "90 min estimate, as of 2026-10-01"
    assert told["activity is"] == "A running cell, or what you do in the open page."
    assert told["last cell"] == "12 min ago before this one, in this kernel"


def test_a_limit_that_you_set_is_no_estimate_and_one_that_is_past_is_believed_no_more() -> None:
    assert shown("colab-free", limit=20 * HOUR, limit_from="set")["time limit"] == "20 h as you set it"
    outlived = shown("colab-free", age=13 * HOUR, limit_from="passed")
    assert outlived["time limit"] == "12 h, and it is past that was an estimate; it may end at any time"
    assert "left" not in outlived
    assert "may end at any time" in text(known("colab-free", age=13 * HOUR, limit_from="passed")).splitlines()[1]
    assert shown("plain")["time limit"] == shown("runpod")["time limit"] == "none is known"


def test_a_limit_of_yours_that_is_past_is_told_with_since_when_and_how_it_is_forgotten() -> None:
    for age, limit in ((5 * HOUR, 4 * HOUR), (HOUR, 0.0)):
        told = shown("colab-free", age=age, limit=limit, limit_from="set")
        assert told["time limit"] == "past since 13:05 UTC as you set it; a run stops after its first step"
        assert "left" not in told
    flagged = text(known("colab-free", age=age, limit=limit, limit_from="set")).splitlines()[1]
    assert flagged.endswith("%session unset limit forgets it; %session set left 2h sets another.")


def test_what_the_platform_itself_publishes_is_no_estimate() -> None:
    assert shown("colab-enterprise")["idle limit"] == "3 h as of 2026-10-01"


def test_the_weeks_gpu_time_is_told_with_what_this_session_took_of_it() -> None:
    assert shown("kaggle")["GPU a week"] == "30 h estimate, as of 2026-09-23; this session has used 3 h of it"
    assert "used" not in shown("kaggle", facts=Facts())["GPU a week"]


def test_the_machine_and_what_stays() -> None:
    told = shown("colab-free")
    assert told["GPU"] == "Tesla T4 5.2 of 14.6 GiB used"
    assert told["disk"] == "40.0 of 78.0 GB used of /content"
    assert told["what stays"] == "/content/drive/MyDrive/colab_magics"
    assert told["Drive"] == "4.0 of 15.0 GB used of the account, trash included"
    assert "%session setup" in shown("colab-free", drive="not mounted")["what stays"]
    assert "does not answer" in shown("colab-free", drive="silent")["what stays"]
    assert "has not answered yet" in shown("colab-free", drive="waiting")["what stays"]
    assert shown("kaggle", cwd=Path("/kaggle/working"))["what stays"].startswith(
        "/kaggle/working only if Persistence is on"
    )
    volume = replace(FACTS, storage=Usage("/storage", 4.5 * GB, 5 * GB))
    assert shown("paperspace", facts=volume)["storage"] == "4.5 of 5.0 GB used of /storage"
    assert shown("paperspace", cwd=Path("/notebooks"))["what stays"] == "/storage our folders in /storage/colab_magics"
    assert shown("plain", facts=Facts())["GPU"] == "none a run trains on the CPU"


def test_the_rate_is_that_of_the_device_that_is_there() -> None:
    assert shown("colab-pro")["an hour costs"].startswith("1.07 compute units ($0.11) T4; estimate")
    assert "an hour costs" not in shown("colab-free")
    l4 = replace(FACTS, memory=(Usage("NVIDIA L4", 1 * GIB, 22 * GIB),))
    assert shown("colab-pro", facts=l4)["an hour costs"].startswith("1.7 compute units")


@pytest.mark.parametrize("key", list(TABLE.platforms))
@pytest.mark.parametrize("facts", [FACTS, Facts()], ids=["all", "nothing"])
def test_every_platform_has_a_picture_and_the_same_facts_as_text(key: str, facts: Facts) -> None:
    found = known(key, facts=facts)
    as_text, as_html = text(found), html(found)
    for label, value, _ in rows(found):
        assert f"{label} " in as_text
        assert value in as_text
    assert TABLE.platforms[key].title in as_text
    assert as_html.count("<div") == as_html.count("</div>")
    assert len(as_html) < 20_000


def test_red_flags_stand_above_all_else_and_the_bar_turns() -> None:
    near = known("colab-pro", age=23.5 * HOUR)
    assert text(near).splitlines()[1].startswith("! 30 min of this session are left, by an estimate.")
    assert html(near).index("cm-flag") < html(near).index("<table>")
    assert 'class="cm-near"' in html(near)
    assert 'aria-label="23.5 h of 24 h are over"' in html(near)
    assert '<div class="cm-bar"' not in html(known("plain"))


def test_nothing_that_a_file_or_a_driver_says_is_markup() -> None:
    evil = "<script>alert(1)</script>\x1b[31m"
    here = known("colab-free", facts=replace(FACTS, memory=(Usage(evil, 1, 2),), disk=Usage(evil, 1, 2)))
    here = replace(here, session=replace(here.session, evidence=evil))
    assert "<script" not in html(here)
    assert "\x1b" not in html(here) + text(here)


# --- in a shell ------------------------------------------------------------------------------------------------------


def said(shell: Any, capsys: Any, line: str) -> str:
    shell.run_line_magic("session", line)
    return str(capsys.readouterr().out)


def test_a_value_that_you_set_holds_and_can_be_taken_back(shell: Any, capsys: Any, tmp_path: Path) -> None:
    told = said(shell, capsys, "set limit 1000 h")
    assert told.splitlines()[0] == (
        f'session.limit = "1000 h", until this machine ends. It stands in {tmp_path / "session.toml"}.'
    )
    assert re.fullmatch(r"This session is .+ old and lives for .+ more\.", told.splitlines()[1])
    assert "time limit   1000 h  (as you set it)" in said(shell, capsys, "")
    assert "is not set any more" in said(shell, capsys, "unset limit")
    assert "none is known" in said(shell, capsys, "")


@pytest.mark.parametrize(
    "line",
    [
        "set limit=1000h",
        "set limit = 1000h",
        "set limit 1000 h",
        "set session.limit 1000h",
        "set Limit 1000h",
        "set limit 1000h  # until Friday",
        "set limit “1000h”",
    ],
)
def test_it_may_be_written_as_people_write(shell: Any, capsys: Any, line: str) -> None:
    assert "session.limit" in said(shell, capsys, line)
    assert "1000 h" in said(shell, capsys, "")


def test_a_limit_that_is_past_says_what_becomes_of_a_run(shell: Any, capsys: Any) -> None:
    told = said(shell, capsys, "set plain.limit 1s")
    assert "a run that trains now stops after its step. %session unset plain.limit takes that back." in told
    assert "past since " in said(shell, capsys, "  # and the panel?")
    said(shell, capsys, "set plain.limit 1000h")
    assert "%session unset start takes that back." in said(shell, capsys, "set start 999 days")


def test_the_platform_can_be_named_and_its_facts_follow(shell: Any, capsys: Any) -> None:
    said(shell, capsys, "set platform kaggle")
    assert said(shell, capsys, "").startswith("Kaggle, interactive  (set in ")
    said(shell, capsys, "set kaggle.weekly 6h")
    assert "GPU a week   6 h" in said(shell, capsys, "")


def test_a_threshold_is_called_as_people_call_it(shell: Any, capsys: Any) -> None:
    assert said(shell, capsys, "set drive_limit 12 GB").startswith('thresholds.drive = "12 GB", for every session.')
    assert "Drive 12 GB" in said(shell, capsys, "")
    assert "thresholds.drive is not set any more" in said(shell, capsys, "unset drive_limit")


def test_the_table_tells_where_it_is_and_what_is_yours(shell: Any, capsys: Any, tmp_path: Path) -> None:
    told = said(shell, capsys, "table")
    assert "platforms.toml" in told
    assert f"{tmp_path / 'session.toml'} (not there yet)" in told
    assert all(key in told for key in TABLE.platforms)
    said(shell, capsys, "set kaggle.limit 9h")
    assert "You have set: platforms.kaggle.limit" in said(shell, capsys, "table")


def test_help_is_printed(shell: Any, capsys: Any) -> None:
    assert all(command in said(shell, capsys, "--help") for command in COMMANDS)
    assert said(shell, capsys, "set --help") == "%session set KEY VALUE\n"


@pytest.mark.parametrize(
    ("line", "lines"),
    [
        ("sett limit 10h", ["There is no subcommand sett.", "→ Did you mean %session set?"]),
        ("set", ["%session set needs a key and a value.",
                 "→ Write %session set limit VALUE, as in %session set limit 10h."]),
        ("set limit", ["%session set needs a value.", "limit is given nothing."]),
        ("set limit 10 hous", ["limit 10 hous is no time.", "Nothing was changed."]),
        ("set limt 10h", ["There is no key limt.", "→ Did you mean limit?"]),
        ("set platform colap-free", ["There is no platform colap-free.", "→ Did you mean colab-free?"]),
        ("set kagle.limit 9h", ["There is no platform kagle.", "→ Did you mean kaggle?"]),
        ("unset limit", ["limit is not set.", "→ Nothing is set."]),
        ("unset", ["%session unset needs a key.", "→ Write %session unset KEY."]),
        ("table now", ["%session table takes no now.", "→ Write %session table."]),
        ("setup --ou paths", ["%session setup takes no --ou.", "→ Did you mean --out?"]),
        ("setup --out 1x", ["--out 1x is no variable name.", "→ Use letters, digits and _, as in --out paths."]),
        ("set limit 'x", ["The line cannot be read.", "→ Close the quote, or leave it out."]),
    ],
)  # fmt: skip
def test_what_is_misspelt_is_told_with_what_was_meant_and_changes_nothing(
    shell: Any, tmp_path: Path, line: str, lines: list[str]
) -> None:
    with pytest.raises(ColabMagicsError) as refused:
        shell.run_line_magic("session", line)
    told = refused.value.lines()
    assert 2 <= len(told) <= 4
    assert all(one in told for one in lines), told
    assert not (tmp_path / "session.toml").exists()
    assert not list((tmp_path / "notebook").iterdir())


def test_a_mistake_in_your_own_file_is_told_with_its_line(shell: Any, tmp_path: Path) -> None:
    (tmp_path / "session.toml").write_text('[session]\nlimit = "10 hous"\n')
    with pytest.raises(ColabMagicsError, match=r"line 2: limit = '10 hous' is no time\."):
        shell.run_line_magic("session", "")


def test_only_plan_reads_a_body(shell: Any) -> None:
    with pytest.raises(ColabMagicsError, match="takes no cell body"):
        shell.run_cell_magic("session", "cost", "model: demo")
    with pytest.raises(ColabMagicsError, match="%%session alone takes no cell body"):
        shell.run_cell_magic("session", "", "model: demo")


def test_it_goes_with_the_extension(shell: Any) -> None:
    assert shell.find_line_magic("session")
    assert shell.find_cell_magic("session")
    shell.run_line_magic("unload_ext", "colab_magics")
    assert shell.find_line_magic("session") is None
    assert shell.find_cell_magic("session") is None
    assert "SessionMagics" not in shell.magics_manager.registry
    shell.run_line_magic("load_ext", "colab_magics")


@pytest.mark.parametrize(
    ("text", "symbol", "offered"),
    [
        ("%session ", "", set(COMMANDS)),
        ("session se", "se", {"set", "setup"}),
        ("%session set ", "", {"limit", "platform", "thresholds.drive", "kaggle.weekly", "colab-pro.units.T4"}),
        ("%session set platform ", "", {"kaggle", "colab-free", "plain"}),
        ("%session setup --", "--", {"--out"}),
    ],
)
def test_tab_offers_subcommands_keys_and_platforms(shell: Any, text: str, symbol: str, offered: set[str]) -> None:
    assert offered <= set(complete(shell, SimpleNamespace(text_until_cursor=text, symbol=symbol)))


def test_tab_offers_to_unset_what_is_set(shell: Any, capsys: Any) -> None:
    said(shell, capsys, "set kaggle.limit 9h")
    event = SimpleNamespace(text_until_cursor="%session unset ", symbol="")
    assert complete(shell, event) == ["kaggle.limit"]


# --- setup -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """Pretends to be a platform whose persistent storage is a folder of the test's, on a mount of its own."""

    def pretend(key: str, home: Path | None, *, mounted: bool = True) -> None:
        there = [Mount(PurePath("/"), "ext4", "/dev/sda1")]
        if home is not None and mounted:
            there.append(Mount(PurePath(home), "ext4", "/dev/sdb1"))
        for module in (session_setup, durable, session_facts):
            monkeypatch.setattr(module, "mounts", lambda: list(there))
        monkeypatch.setenv("COLAB_MAGICS_PLATFORM", key)
        if home is not None:
            (tmp_path / "session.toml").write_text(f'[platforms.{key}]\npersistent = "{home}"\n')

    return pretend


def test_setup_beside_the_notebook_makes_the_folders_and_binds_them(shell: Any, capsys: Any, tmp_path: Path) -> None:
    told = said(shell, capsys, "setup --out paths")
    paths = shell.user_ns["paths"]
    assert isinstance(paths, Paths)
    assert paths.root == tmp_path / "notebook"
    assert sorted(path.name for path in paths.root.iterdir()) == ["checkpoints", "datasets", "logs", "outputs"]
    assert told.splitlines()[0] == "This machine"
    assert all(str(path) in told for path in paths.folders.values())
    assert configured_replica(shell) == "", "a copy on the runs' own disk would protect nothing"


def test_setup_twice_changes_nothing(shell: Any, capsys: Any, tmp_path: Path) -> None:
    first = said(shell, capsys, "setup")
    (tmp_path / "notebook" / "datasets" / "rows.jsonl").write_text("{}\n")
    assert said(shell, capsys, "setup") == first
    assert (tmp_path / "notebook" / "datasets" / "rows.jsonl").exists()


def test_where_another_disk_stays_the_copies_of_runs_go_there(
    shell: Any, capsys: Any, tmp_path: Path, elsewhere: Callable[..., None]
) -> None:
    storage = tmp_path / "storage"
    storage.mkdir()
    elsewhere("paperspace", storage)
    told = said(shell, capsys, "setup --out paths")
    assert configured_replica(shell) == str(storage / "colab_magics" / "checkpoints")
    assert f"copied to               {storage}/colab_magics/checkpoints" in told
    assert (storage / "colab_magics" / "datasets").is_dir()


def test_a_replica_of_your_own_stays(shell: Any, capsys: Any, tmp_path: Path, elsewhere: Callable[..., None]) -> None:
    (tmp_path / "storage").mkdir()
    elsewhere("paperspace", tmp_path / "storage")
    shell.run_line_magic("config", "CheckpointMagics.replica = 's3://mine/runs'")
    assert "copied to               s3://mine/runs" in said(shell, capsys, "setup")
    assert configured_replica(shell) == "s3://mine/runs"


def test_where_the_working_directory_stays_runs_stay_with_it(
    shell: Any, capsys: Any, tmp_path: Path, elsewhere: Callable[..., None]
) -> None:
    elsewhere("lightning", tmp_path)
    told = said(shell, capsys, "setup --out paths")
    assert shell.user_ns["paths"].checkpoints == tmp_path / "notebook" / "checkpoints"
    assert f"nowhere: {tmp_path} stays by itself" in told
    assert configured_replica(shell) == ""
    elsewhere("kaggle", tmp_path)
    assert f"nowhere: {tmp_path} stays only if Persistence is on" in said(shell, capsys, "setup")


def test_storage_that_is_not_there_is_not_made_up(shell: Any, tmp_path: Path, elsewhere: Callable[..., None]) -> None:
    elsewhere("runpod", tmp_path / "workspace", mounted=False)
    with pytest.raises(ColabMagicsError, match=r"There is no .*/workspace on this machine") as refused:
        shell.run_line_magic("session", "setup")
    assert "%session set runpod.persistent FOLDER" in str(refused.value)
    assert not (tmp_path / "workspace").exists()


class PretendedDrive:
    """`google.colab.drive`, whose Drive appears in the table of mounts when it is mounted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked, self.refuses = 0, False
        self.there = [Mount(PurePath("/"), "ext4", "/dev/sda1")]
        drive = ModuleType("google.colab.drive")
        drive.mount = self.mount  # type: ignore[attr-defined]
        colab = ModuleType("google.colab")
        colab.drive = drive  # type: ignore[attr-defined]
        for name, module in (("google", ModuleType("google")), ("google.colab", colab), ("google.colab.drive", drive)):
            monkeypatch.setitem(sys.modules, name, module)
        for where in (session_setup, durable, session_facts):
            monkeypatch.setattr(where, "mounts", lambda: list(self.there))
        monkeypatch.setenv("COLAB_MAGICS_PLATFORM", "colab-free")

    def mount(self, point: str) -> None:
        self.asked += 1
        if self.refuses:
            raise ValueError("mount failed: the window was closed")
        self.there.append(Mount(PurePath(point), "fuse.drive", "drive"))


@pytest.fixture
def drive(monkeypatch: pytest.MonkeyPatch) -> PretendedDrive:
    return PretendedDrive(monkeypatch)


def test_on_colab_drive_is_mounted_once_and_holds_the_folders(
    shell: Any, capsys: Any, drive: PretendedDrive, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []
    monkeypatch.setattr(session_setup, "_make_by_a_child", lambda folders, *_: made.extend(folders))
    told = said(shell, capsys, "setup --out paths")
    said(shell, capsys, "setup")
    assert drive.asked == 1
    assert str(shell.user_ns["paths"].datasets) == "/content/drive/MyDrive/colab_magics/datasets"
    assert made[: len(made) // 2] == list(shell.user_ns["paths"].folders.values())
    assert configured_replica(shell) == "/content/drive/MyDrive/colab_magics/checkpoints"
    assert "/content/drive/MyDrive/datasets" in told


def test_a_drive_that_is_said_to_be_mounted_and_is_not_has_no_folders_made_in_its_place(
    shell: Any, drive: PretendedDrive, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []
    monkeypatch.setattr(Path, "mkdir", lambda self, **_: made.append(self))
    monkeypatch.setattr(sys.modules["google.colab.drive"], "mount", lambda _: None)
    with pytest.raises(ColabMagicsError) as refused:
        shell.run_line_magic("session", "setup")
    assert refused.value.lines()[1] == "Colab says that it is, but there is no such mount."
    assert not made


def test_storage_that_may_not_be_written_to_is_told_with_how_to_name_another(
    shell: Any, tmp_path: Path, elsewhere: Callable[..., None]
) -> None:
    storage = tmp_path / "storage"
    storage.mkdir()
    (storage / "colab_magics").touch()  # root may write anywhere else
    elsewhere("paperspace", storage)
    with pytest.raises(ColabMagicsError) as refused:
        shell.run_line_magic("session", "setup")
    assert "%session set paperspace.persistent FOLDER" in refused.value.next_steps[0]


def test_a_value_in_a_file_that_dies_with_the_machine_is_not_called_one_for_every_session(
    shell: Any, capsys: Any, tmp_path: Path, elsewhere: Callable[..., None]
) -> None:
    elsewhere("paperspace", tmp_path / "storage")
    told = said(shell, capsys, "set idle 60 min")
    assert 'session.idle = "60 min", until this machine ends.' in told
    assert told.splitlines()[-1].endswith("keep this line in the notebook.")
    elsewhere("paperspace", tmp_path)
    assert 'session.idle = "60 min", for every session.' in said(shell, capsys, "set idle 60 min")


def test_a_drive_that_is_not_allowed_ends_the_cell_in_words(shell: Any, drive: PretendedDrive) -> None:
    drive.refuses = True
    with pytest.raises(ColabMagicsError) as refused:
        shell.run_line_magic("session", "setup --out paths")
    assert refused.value.lines()[:2] == [
        "Drive was not mounted, and /content/drive/MyDrive/colab_magics is on it.",
        "Colab says: mount failed: the window was closed.",
    ]
    assert "paths" not in shell.user_ns
    assert configured_replica(shell) == ""


def test_folders_on_a_mount_are_made_by_a_child_and_its_trouble_is_told(tmp_path: Path) -> None:
    session_setup._make_by_a_child([tmp_path / "a" / "b", tmp_path / "a"], tmp_path, "")
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(ColabMagicsError, match="were not made") as refused:
        session_setup._make_by_a_child([tmp_path / "file" / "b"], tmp_path, "Make room there.")
    assert "Not a directory" in str(refused.value)
    assert refused.value.next_steps == ("Make room there.",)


def test_a_mount_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hung = tmp_path / "python"
    hung.write_text("#!/bin/sh\nexec sleep 20\n")
    hung.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(hung))
    monkeypatch.setattr(session_setup, "_PATIENCE", 0.2)
    with pytest.raises(ColabMagicsError, match="does not answer"):
        session_setup._make_by_a_child([tmp_path / "a"], tmp_path, "")


# --- in a terminal and in a kernel -----------------------------------------------------------------------------------


def test_a_terminal_shows_and_sets_and_leaves_the_setup_to_the_notebook(
    shell: Any, capsys: Any, tmp_path: Path
) -> None:
    assert terminal.main(["session", "set", "limit", "1000", "h"]) == 0
    assert terminal.main(["session"]) == 0
    out = capsys.readouterr().out
    assert "session.limit" in out
    assert "1000 h  (as you set it)" in out
    assert terminal.main(["session", "setup"]) == 1
    assert "Run %session setup in a cell." in capsys.readouterr().err
    assert terminal.main(["session", "set", "--help"]) == 0
    assert capsys.readouterr().out == "python -m colab_magics session set KEY VALUE\n"


@pytest.fixture(scope="module")
def home(home: Home) -> Home:
    home.environment["COLAB_MAGICS_SESSION"] = str(home.folder / "session.toml")
    home.environment["COLAB_MAGICS_PLATFORM"] = "kaggle"
    return home


def test_a_kernel_shows_one_output_in_both_forms_and_when_its_last_cell_was_run(home: Home, kernel: Kernel) -> None:
    kernel.run("1 + 1")
    reply = kernel.run("%session")
    ((frame,),) = reply.displays.values()
    assert set(frame) == {"text/html", "text/plain"}
    assert frame["text/plain"].startswith("Kaggle, interactive  (COLAB_MAGICS_PLATFORM)")
    assert "last cell    just now" in frame["text/plain"]
    assert reply.status == "ok"
    assert reply.text == ""


def test_an_error_of_the_line_is_words_and_no_traceback(kernel: Kernel) -> None:
    reply = kernel.run("%session set limit 10 hous")
    assert (reply.status, reply.error) == ("error", "ColabMagicsError")
    assert reply.traceback == [
        "limit 10 hous is no time.",
        "Nothing was changed.",
        "→ Write it as 10h, 90min, 1h30m, or as the end: 2026-11-20T10:00.",
    ]


def test_the_kernel_learns_what_a_terminal_sets(home: Home, kernel: Kernel) -> None:
    done = home.terminal("session", "set", "limit", "1000h")
    assert done.returncode == 0, done.stderr
    ((frame,),) = kernel.run("%session").displays.values()
    assert "time limit   1000 h  (as you set it)" in frame["text/plain"]


@pytest.mark.parametrize("written", ["memory_limit 14 GB", "ram_limit 80%", "disk_limit 95%", "run_limit 10h"])
def test_the_short_names_in_the_documents_are_those_of_the_code(shell: Any, capsys: Any, written: str) -> None:
    key = written.partition("_")[0]
    assert said(shell, capsys, f"set {written}").startswith(f"thresholds.{key} = ")


def test_the_idle_limit_is_the_platforms_and_no_threshold(shell: Any, capsys: Any) -> None:
    assert said(shell, capsys, "set idle_limit 60 min").startswith("session.idle = ")
    assert said(shell, capsys, "set time_limit 1000h").startswith("session.limit = ")


def test_a_run_that_has_long_been_alive_is_flagged(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    monkeypatch.setenv("COLAB_MAGICS_SESSION", str(tmp_path / "session.toml"))
    monkeypatch.setenv("COLAB_MAGICS_PLATFORM", "plain")
    for name in ("kwanzaa", "ended"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "events.jsonl").write_text("")
    worker._write_info(tmp_path / "runs" / "kwanzaa", psutil.Process().pid, 1)  # this very process
    name, seconds = session_now._longest(tmp_path / "runs") or ("", 0.0)
    assert name == "kwanzaa"
    assert seconds > 0
    (tmp_path / "session.toml").write_text('[thresholds]\nrun = "0.001s"\n')
    assert [flag.key for flag in session_now.known_now(tmp_path / "runs").flags] == ["run"]
