"""What the user says of his sessions: one line of his file is written, and nothing else in it changes."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from colab_magics.errors import ColabMagicsError
from colab_magics.session.settings import Change, keys_of, resolve, set_value, unset, user_file
from colab_magics.session.table import load_table

from .pretended import PretendedClock

pytestmark = pytest.mark.face


class Mine:
    """A user's file, and the machine on which it is."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "config" / "session.toml"
        self.environ = {"COLAB_MAGICS_SESSION": str(self.path)}
        self.clock = PretendedClock()

    def write(self, text: str) -> None:
        self.path.parent.mkdir(exist_ok=True)
        self.path.write_text(text)

    def set(self, key: str, text: str) -> Change:
        return set_value(key, text, environ=self.environ, clock=self.clock)

    def unset(self, key: str) -> Change:
        return unset(key, environ=self.environ)

    @property
    def text(self) -> str:
        return self.path.read_text()


@pytest.fixture
def mine(tmp_path: Path) -> Mine:
    return Mine(tmp_path)


WRITTEN = """\
# my sessions

[platforms.kaggle]
limit = "9h" # they said nine
notes = [
  "one",
  "two",
]

[thresholds]
drive = "12 GB"
"""


def test_the_file_is_where_the_variable_says_or_in_the_users_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    assert user_file({}) == Path("/home/ada/.config/colab_magics/session.toml")
    assert user_file({"COLAB_MAGICS_SESSION": "~/mine.toml"}) == Path("/home/ada/mine.toml")


def test_the_first_value_makes_the_file(mine: Mine) -> None:
    change = mine.set("kaggle.limit", "9h")
    assert mine.text == '[platforms.kaggle]\nlimit = "9h"\n'
    assert change == Change(mine.path, "platforms.kaggle.limit", '"9h"')
    assert load_table(mine.path).platforms["kaggle"].limit == 9 * 3600


def test_only_its_own_line_is_written(mine: Mine) -> None:
    mine.write(WRITTEN)
    mine.set("thresholds.drive", "8 GB")
    assert mine.text == WRITTEN.replace("12 GB", "8 GB")
    mine.set("kaggle.idle", "1h")
    mine.set("colab-pro.units.T4", "1.3")
    added = ('idle = "1h"', "[platforms.colab-pro]", "units = {T4 = 1.3}", "")
    kept = [line for line in mine.text.splitlines() if line not in added]
    assert kept == [line for line in WRITTEN.replace("12 GB", "8 GB").splitlines() if line]


@pytest.mark.parametrize(
    "written",
    [
        "[platforms.colab-pro.units]\nL4 = 1.9 # mine\n",
        "[platforms.colab-pro]\nunits.L4 = 1.9\n",
        "[platforms]\ncolab-pro.units.L4 = 1.9\n",
        'platforms."colab-pro".units.L4 = 1.9\n',
    ],
)
def test_a_value_is_found_however_it_is_written(mine: Mine, written: str) -> None:
    mine.write(written)
    mine.set("colab-pro.units.L4", "2.5")
    assert load_table(mine.path).platforms["colab-pro"].units["L4"] == 2.5
    assert mine.text == written.replace("1.9", "2.5")
    mine.unset("colab-pro.units.L4")
    assert load_table(mine.path).own == frozenset()


def test_a_value_goes_below_the_header_that_is_nearest_to_it(mine: Mine) -> None:
    mine.write("[platforms.colab-pro]\n\n[platforms.colab-pro.units]\nL4 = 1.9\n")
    mine.set("colab-pro.units.T4", "1.3")
    mine.set("colab-pro.limit", "20h")
    assert mine.text == '[platforms.colab-pro]\nlimit = "20h"\n\n[platforms.colab-pro.units]\nL4 = 1.9\nT4 = 1.3\n'


def test_a_value_of_several_lines_is_replaced_whole(mine: Mine) -> None:
    mine.write(WRITTEN)
    mine.set("kaggle.notes", "only this")
    assert load_table(mine.path).platforms["kaggle"].notes == ("only this",)
    assert "two" not in mine.text
    assert "# my sessions" in mine.text


@pytest.mark.parametrize(
    ("key", "text", "held"),
    [
        ("limit", "10h", "10h"),
        ("session.limit", "10h", "10h"),
        ("idle", "2 h", "2 h"),
        ("platform", "colab-pro", "colab-pro"),
        ("kaggle.limit", "none", "none"),
        ("kaggle.disk", "70 GB", "70 GB"),
        ("kaggle.count.T4", "4", 4),
        ("runpod.dollars.L4", "0.4", 0.4),
        ("colab-pro.accelerators", "T4, L4", ["T4", "L4"]),
        ("T4.memory", "14 GiB", "14 GiB"),
        ("T4.flops.fp16", "60e12", 60e12),
        ("T4.share.fp16", "20%", "20%"),
        ("T4.capability", "7.5", [7, 5]),
        ("P100.supported", "true", True),
        ("thresholds.memory", "14 GB", "14 GB"),
        ("thresholds.run", "none", "none"),
        ("platforms.kaggle.limit", "9h", "9h"),
    ],
)
def test_every_kind_of_value_is_set_and_taken_back(mine: Mine, key: str, text: str, held: object) -> None:
    before = load_table(mine.path)
    change = mine.set(key, text)
    found: object = tomllib.loads(mine.text)
    for part in change.key.split("."):
        assert isinstance(found, dict)
        found = found[part]
    assert found == held
    assert load_table(mine.path) != before
    assert mine.unset(key).value is None
    after = load_table(mine.path)
    assert (after.platforms, after.accelerators, after.thresholds, dict(after.session)) == (
        before.platforms,
        before.accelerators,
        before.thresholds,
        {},
    )


@pytest.mark.parametrize(
    ("key", "text", "said"),
    [
        ("limit", "10 hous", ["limit 10 hous is no time.", "Nothing was changed.",
                              "→ Write it as 10h, 90min, 1h30m, or as the end: 2026-11-20T10:00."]),
        ("limt", "10h", ["There is no key limt.", "Nothing was changed.", "→ Did you mean limit?"]),
        ("kaggel.limit", "9h", ["There is no platform kaggel.", "Nothing was changed.", "→ Did you mean kaggle?"]),
        ("kaggle.limt", "9h", ["There is no key kaggle.limt.", "Nothing was changed.", "→ Did you mean kaggle.limit?"]),
        ("platform", "kagle", ["There is no platform kagle.", "Nothing was changed.", "→ Did you mean kaggle?"]),
        ("kaggle.units.P1000", "2", ["There is no accelerator P1000.", "Nothing was changed.", "→ Did you mean P100?"]),
        ("kaggle.units", "2", ["kaggle.units holds more than one value.", "There is one for each.",
                               "→ Write kaggle.units.A100-40."]),
        ("kaggle.disk", "much", ["kaggle.disk much is no size.", "Nothing was changed.",
                                 "→ Write it as 20 GB, 14.5 GiB, or in bytes."]),
        ("kaggle.count.T4", "two", ["kaggle.count.T4 two is no number of devices.", "Nothing was changed.",
                                    "→ Write it as 2."]),
        ("start", "2026-11-26T10:00Z", ["start 2026-11-26T10:00Z is to come.", "Here it is 2026-11-20T08:00+00:00.",
                                        "→ Write the offset where your clock is another: 2026-11-20T10:00+01:00.",
                                        "→ Or how long ago it was: 2h."]),
        ("limit", "2026-11-20T07:00Z", ["limit 2026-11-20T07:00Z is past.", "Here it is 2026-11-20T08:00+00:00.",
                                        "→ Write the offset where your clock is another: 2026-11-20T10:00+01:00.",
                                        "→ Or how long it lives from now on: %session set left 2h."]),
        ("limit", "45 min", ["45 min in all is past.",
                             "A limit counts from the session's start, and this one is 60 min old.",
                             "→ Until 45 min from now: %session set left 45min."]),
        ("limit", "10", ["limit 10 would be 10 seconds.", "Nothing was changed.", "→ Write 10h or 10min."]),
        ("left", "2", ["left 2 would be 2 seconds.", "Nothing was changed.", "→ Write 2h or 2min."]),
        ("kaggle.limit", "9", ["kaggle.limit 9 would be 9 seconds.", "Nothing was changed.", "→ Write 9h or 9min."]),
        ("limit", "22:00", ["limit 22:00 is no time.", "Nothing was changed.",
                            "→ For 22:00 write 2026-11-20T22:00."]),
        ("left", "7:30", ["left 7:30 is no time.", "Nothing was changed.", "→ For 7:30 write 2026-11-21T07:30."]),
        ("start", "22:00", ["start 22:00 is no time.", "Nothing was changed.",
                            "→ For 22:00 write 2026-11-19T22:00."]),
        ("boot", "x", ["There is no key boot.", "Nothing was changed.",
                       "→ It is like limit, kaggle.limit, or thresholds.drive."]),
        ("", "x", ["There is no key .", "Nothing was changed.", "→ It is like limit,"]),
    ],
)  # fmt: skip
def test_what_cannot_be_set_is_explained_and_nothing_is_written(
    mine: Mine, key: str, text: str, said: list[str]
) -> None:
    mine.write(WRITTEN)
    with pytest.raises(ColabMagicsError) as raised:
        mine.set(key, text)
    lines = raised.value.lines()
    assert len(lines) == len(said)
    assert all(line.startswith(start) for line, start in zip(lines, said, strict=True)), lines
    assert mine.text == WRITTEN


def test_a_list_that_names_no_device_is_refused_before_it_is_written(mine: Mine) -> None:
    with pytest.raises(ColabMagicsError, match="no accelerator T9"):
        mine.set("kaggle.accelerators", "T4, T9")
    assert not mine.path.exists()


def test_a_file_that_is_broken_already_is_told_and_left_alone(mine: Mine) -> None:
    mine.write("[session]\nlimit = 10h\n")
    with pytest.raises(ColabMagicsError, match="line 2: limit = 10h cannot be read"):
        mine.set("idle", "1h")
    assert mine.text == "[session]\nlimit = 10h\n"


def test_a_value_that_shares_its_line_is_changed_there(mine: Mine) -> None:
    mine.write("[platforms.colab-pro]\nunits = { T4 = 1.3, L4 = 2 } # mine\n")
    mine.set("colab-pro.units.T4", "1.4")
    assert mine.text == "[platforms.colab-pro]\nunits = { T4 = 1.4, L4 = 2 } # mine\n"
    mine.unset("colab-pro.units.L4")
    assert tomllib.loads(mine.text) == {"platforms": {"colab-pro": {"units": {"T4": 1.4}}}}
    assert "# mine" in mine.text


def test_a_limit_and_a_start_are_of_this_boot_and_the_file_says_which(mine: Mine) -> None:
    assert mine.set("limit", "10h").for_this_boot
    mine.set("start", "2h")
    assert tomllib.loads(mine.text)["session"] == {
        "limit": "10h",
        "start": "2026-11-20T06:00:00+00:00",
        "boot": "this-boot+24",
    }
    mine.unset("limit")
    assert "boot" in mine.text
    mine.unset("start")
    assert "boot" not in mine.text


def test_what_is_left_is_written_as_the_end_of_this_boot_and_taken_back_by_either_name(mine: Mine) -> None:
    assert mine.set("left", "90 min") == Change(
        mine.path, "session.limit", '"2026-11-20T09:30:00+00:00"', for_this_boot=True
    )
    assert "boot" in mine.text
    mine.unset("left")
    assert load_table(mine.path).own == frozenset()


@pytest.mark.parametrize(
    ("key", "text", "written"),
    [
        ("LIMIT", "10h", "session.limit"),
        ("Left", "2h", "session.limit"),
        ("Platform", "Colab-Pro", "session.platform"),
        ("KAGGLE.Limit", "9h", "platforms.kaggle.limit"),
        ("t4.Flops.FP16", "60e12", "accelerators.T4.flops.fp16"),
        ("Colab-Pro.units.t4", "1.2", "platforms.colab-pro.units.T4"),
    ],
)
def test_upper_and_lower_case_are_alike(mine: Mine, key: str, text: str, written: str) -> None:
    assert mine.set(key, text).key == written
    load_table(mine.path)
    mine.unset(key)


def test_what_another_boot_set_is_gone_when_this_one_sets_something(mine: Mine) -> None:
    mine.set("limit", "10h")
    mine.clock.life = "next-boot+17"
    mine.set("start", "1h")
    assert tomllib.loads(mine.text)["session"].keys() == {"start", "boot"}
    assert tomllib.loads(mine.text)["session"]["boot"] == "next-boot+17"


def test_what_is_not_set_cannot_be_taken_back_and_what_is_set_is_named(mine: Mine) -> None:
    with pytest.raises(ColabMagicsError) as raised:
        mine.unset("limit")
    assert raised.value.lines()[-1] == "→ Nothing is set."
    mine.set("kaggle.limit", "9h")
    mine.set("limit", "9h")
    with pytest.raises(ColabMagicsError) as raised:
        mine.unset("idle")
    assert raised.value.lines()[-1] == "→ Set are: platforms.kaggle.limit, session.limit."


def test_a_link_to_the_file_stays_a_link(mine: Mine, tmp_path: Path) -> None:
    elsewhere = tmp_path / "drive.toml"
    elsewhere.write_text("# on Drive\n")
    mine.path.parent.mkdir()
    mine.path.symlink_to(elsewhere)
    mine.set("kaggle.limit", "9h")
    assert mine.path.is_symlink()
    assert elsewhere.read_text() == '# on Drive\n\n[platforms.kaggle]\nlimit = "9h"\n'


def test_a_place_that_cannot_be_written_is_told_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    environ = {"COLAB_MAGICS_SESSION": str(tmp_path / "file" / "session.toml")}
    with pytest.raises(ColabMagicsError) as raised:
        set_value("kaggle.limit", "9h", environ=environ, clock=PretendedClock())
    assert "COLAB_MAGICS_SESSION" in raised.value.next_steps[0]


def test_a_device_file_in_its_place_is_never_replaced() -> None:
    environ = {"COLAB_MAGICS_SESSION": "/dev/null"}
    with pytest.raises(ColabMagicsError, match="was not written"):
        set_value("kaggle.limit", "9h", environ=environ, clock=PretendedClock())
    assert Path("/dev/null").is_char_device()


def test_ends_of_lines_are_kept_and_what_only_looks_like_one_is_text(mine: Mine) -> None:
    mine.path.parent.mkdir()
    mine.path.write_bytes('[platforms.kaggle]\r\ntitle = "one\u2028two"\r\nlimit = "9h"\r\n'.encode())
    mine.set("kaggle.idle", "1h")
    assert mine.path.read_bytes().count(b"\r\n") == 3
    assert load_table(mine.path).platforms["kaggle"].title == "one\u2028two"
    with pytest.raises(ColabMagicsError, match="was not written"):
        mine.set("kaggle.title", "\ud800")
    assert list(mine.path.parent.iterdir()) == [mine.path], "and nothing half-written is left"


def test_every_key_that_is_offered_can_be_set() -> None:
    table = load_table()
    keys = list(keys_of(table))
    assert {"limit", "kaggle.limit", "colab-pro.units.T4", "thresholds.drive"} <= set(keys)
    for key in keys:
        assert resolve(key, table)


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=30), key=st.sampled_from(["kaggle.title", "kaggle.persistent", "kaggle.notes"]))
def test_whatever_text_is_set_is_held_as_it_is_or_refused(
    text: str, key: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    mine = Mine(tmp_path_factory.mktemp("mine"))
    mine.write(WRITTEN)
    try:
        mine.set(key, text)
    except ColabMagicsError:
        assert mine.text == WRITTEN
        return
    held = tomllib.loads(mine.text)["platforms"]["kaggle"][key.partition(".")[2]]
    assert held == ([one.strip() for one in text.strip().split(",")] if key.endswith("notes") else text.strip())
