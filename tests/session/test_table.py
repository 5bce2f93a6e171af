"""The table of platforms: whole, dated, sorted; and a user's own over it, with every mistake on its line."""

from __future__ import annotations

import os
import re
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from colab_magics.errors import ColabMagicsError
from colab_magics.session.lines import Lines
from colab_magics.session.table import BY_ACCELERATOR, FILE, PLATFORM, Table, accelerator_of, load_table, merged

pytestmark = pytest.mark.face

GIB = 2**30


@pytest.fixture
def table() -> Table:
    return load_table()


def own(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "session.toml"
    path.write_text(text)
    return path


# --- the table itself


def test_every_platform_of_the_issue_is_there(table: Table) -> None:
    assert {"colab-free", "colab-pro", "colab-pro-plus", "colab-local", "colab-enterprise", "kaggle", "kaggle-batch",
            "lightning", "paperspace", "sagemaker-studio-lab", "runpod", "plain"} <= set(table.platforms)  # fmt: skip


def test_a_reader_finds_things_sorted_and_lines_short() -> None:
    lines = FILE.read_text().splitlines()
    for section in ("accelerators", "platforms"):
        keys = re.findall(rf"^\[{section}\.(.+)\]$", "\n".join(lines), re.MULTILINE)
        assert keys == sorted(keys)
    for section in ("sources", "thresholds"):
        body = "\n".join(lines).partition(f"[{section}]\n")[2].partition("\n\n")[0]
        keys = [line.partition(" =")[0] for line in body.splitlines()]
        assert keys == sorted(keys)
    assert max(map(len, lines)) <= 120


def test_every_fact_has_a_date_and_somebody_who_says_so(table: Table) -> None:
    for platform in table.platforms.values():
        assert date.fromisoformat(platform.as_of) <= date.fromisoformat(table.as_of), platform.key
        assert platform.sources or platform.key == "plain", platform.key
        assert set(platform.sources) <= set(table.sources), platform.key
        assert set(platform.certain) <= {*PLATFORM, *BY_ACCELERATOR}, platform.key
    for accelerator in table.accelerators.values():
        assert set(accelerator.sources) <= set(table.sources), accelerator.key
    used = {name for one in (*table.platforms.values(), *table.accelerators.values()) for name in one.sources}
    assert used == set(table.sources), "a source that nothing names"


def test_what_is_offered_is_described_and_what_costs_something_is_offered(table: Table) -> None:
    for platform in table.platforms.values():
        offered = set(platform.accelerators)
        assert offered <= set(table.accelerators), platform.key
        assert {*platform.dollars, *platform.units, *platform.count} <= offered, platform.key
        assert platform.unit_price is not None or not platform.units, platform.key
        assert platform.idle is None or platform.activity, f"{platform.key}: idle, without what counts as activity"


def test_accelerators_are_what_their_data_sheets_say(table: Table) -> None:
    t4, a100, cpu = (table.accelerators[key] for key in ("T4", "A100-40", "cpu"))
    assert (t4.memory / GIB, t4.capability, t4.flops["fp16"]) == (pytest.approx(14.56), (7, 5), 65e12)
    assert t4.share["bf16"] < t4.share["fp16"], "bf16 is emulated on a T4"
    assert a100.capability == (8, 0)
    assert cpu.capability is None
    assert cpu.memory == 0
    for accelerator in table.accelerators.values():
        assert accelerator.flops.keys() == accelerator.share.keys(), accelerator.key
        assert accelerator.supported == (accelerator.capability is None or accelerator.capability >= (7, 0))


@pytest.mark.parametrize(
    ("key", "limit", "idle", "weekly"),
    [
        ("colab-free", 12, 1.5, None),
        ("colab-pro", 24, 1.5, None),
        ("colab-pro-plus", 24, 24, None),
        ("colab-local", None, None, None),
        ("colab-enterprise", None, 3, None),
        ("kaggle", 12, 1 / 3, 30),
        ("kaggle-batch", 12, None, 30),
        ("lightning", 4, 1 / 6, None),
        ("paperspace", 6, None, None),
        ("sagemaker-studio-lab", 4, None, None),
        ("runpod", None, None, None),
        ("plain", None, None, None),
    ],
)
def test_limits_are_in_seconds(
    table: Table, key: str, limit: float | None, idle: float | None, weekly: float | None
) -> None:
    platform = table.platforms[key]
    hours = [
        None if seconds is None else seconds / 3600 for seconds in (platform.limit, platform.idle, platform.weekly)
    ]
    assert hours == [limit, None if idle is None else pytest.approx(idle), weekly]


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("Tesla T4", "T4"),
        ("NVIDIA A100-SXM4-40GB", "A100-40"),
        ("NVIDIA A100-SXM4-80GB", "A100-80"),
        ("NVIDIA A100 80GB PCIe", "A100-80"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "G4"),
        ("NVIDIA GeForce RTX 4090", "RTX-4090"),
        ("Tesla P100-PCIE-16GB", "P100"),
        ("Tesla V100-SXM2-16GB", "V100"),
        ("Quadro M4000", "M4000"),
        ("CPU with 2 cores", "cpu"),
    ],
)
def test_a_device_is_known_by_the_drivers_name_for_it(table: Table, name: str, key: str) -> None:
    found = accelerator_of(name, table)
    assert found is not None
    assert found.key == key


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA L40S",
        "NVIDIA A100-SXM4-40GB MIG 1g.5gb",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "Tesla V100-SXM2-32GB",
        "",
    ],
)
def test_a_slice_of_a_device_or_one_of_another_size_is_not_taken_for_it(table: Table, name: str) -> None:
    assert accelerator_of(name, table) is None


# --- a user's table over it


def test_a_user_changes_one_value_and_the_rest_stays(table: Table, tmp_path: Path) -> None:
    path = own(tmp_path, '[platforms.colab-pro]\nlimit = "20h"\nunits = { T4 = 1.3 }\n\n[thresholds]\nrun = "none"\n')
    mine = load_table(path)
    pro, theirs = mine.platforms["colab-pro"], table.platforms["colab-pro"]
    assert pro.limit == 20 * 3600
    assert pro.units == {**theirs.units, "T4": 1.3}
    assert pro.idle == theirs.idle
    assert mine.thresholds == {key: value for key, value in table.thresholds.items() if key != "run"}
    assert ("platforms", "colab-pro", "units", "T4") in mine.own
    assert "limit" in pro.certain, "what a person says is no estimate"
    assert "idle" not in pro.certain
    assert load_table() == table


def test_a_user_adds_a_platform_and_a_device(tmp_path: Path) -> None:
    path = own(
        tmp_path,
        """
        [accelerators.A10G]
        title = "A10G"
        memory = "22 GiB"
        names = ["A10G"]

        [platforms.our-cluster]
        title = "Our cluster"
        limit = "2 days"
        accelerators = ["A10G", "T4"]
        dollars.A10G = 0.5
        """,
    )
    mine = load_table(path)
    assert mine.platforms["our-cluster"].limit == 172800
    found = accelerator_of("NVIDIA A10G", mine)
    assert found is not None
    assert found.memory == 22 * GIB


def test_a_whole_copy_of_the_table_is_a_users_table_too(table: Table, tmp_path: Path) -> None:
    mine = load_table(own(tmp_path, FILE.read_text()))
    assert mine.platforms.keys() == table.platforms.keys()
    assert mine.thresholds == table.thresholds


def test_a_file_that_is_not_there_changes_nothing(table: Table, tmp_path: Path) -> None:
    assert load_table(tmp_path / "absent" / "session.toml") == table
    assert load_table(own(tmp_path, "")) == load_table(own(tmp_path, "# nothing yet\n"))


def test_a_file_is_read_again_when_it_has_changed_and_not_before(tmp_path: Path) -> None:
    path = own(tmp_path, '[platforms.kaggle]\nlimit = "9h"\n')
    first = load_table(path)
    assert load_table(path) is first
    path.write_text('[platforms.kaggle]\nlimit = "11h"\n')
    assert load_table(path).platforms["kaggle"].limit == 11 * 3600
    os.utime(path, ns=(0, 0))
    assert load_table(path) is not first


MISTAKES = [
    ('[platforms.kaggle]\nlimit = "10 hous"\n', "line 2: limit = '10 hous' is no time.", "Write it as 10h"),
    ("[platforms.kaggle]\n\n\nlimit = -3\n", "line 4: limit = -3 is no time.", "Write it as 10h"),
    ("[platforms.kaggle]\nlimit = true\n", "line 2: limit = True is no time.", "Write it as 10h"),
    ('[platforms.kaggel]\nlimit = "9h"\n', "line 1: there is no platform kaggel.", "Did you mean kaggle?"),
    ('\n# mine\n[platforms.kaggle]\nlimmit = "9h"\n', "line 4: there is no key limmit.", "Did you mean limit?"),
    ("[platforms.kaggle]\nunits = 3\n", "line 2: units = 3 is no table.", "Write units = { NAME = … }."),
    ("[platforms.kaggle]\nunits = { p1000 = 3 }\n", "line 2: there is no accelerator p1000.", "Did you mean P100?"),
    ("[platforms.kaggle]\nunits = { T5 = 3 }\n", "line 2: there is no accelerator T5.", "It can be A100-40"),
    ('[platforms.kaggle]\nunits.T4 = "3"\n', "line 2: T4 = '3' is no number.", "without a unit"),
    ('[platforms.kaggle]\naccelerators = [\n  "T4",\n  "T8",\n]\n', "line 2: there is no accelerator T8.", ""),
    ('[platforms.kaggle]\nas_of = "yesterday"\n', "line 2: as_of = 'yesterday' is no date.", "2026-11-20"),
    ('[platforms.kaggle]\ndisk = "20 elephants"\n', "line 2: disk = '20 elephants' is no size.", "20 GB"),
    ("[platforms.kaggle]\ncount.T4 = 0\n", "line 2: T4 = 0 is no number of devices.", "Write it as 2."),
    ("[accelerators.T4]\ncapability = [7]\n", "line 2: capability = [7] is no compute capability.", "[7, 5]"),
    ("[accelerators.T4]\nflops = { fp8 = 1e12 }\n", "line 2: there is no precision fp8.", "It can be bf16, fp16"),
    ('[accelerators.T4]\nshare.fp16 = "140%"\n', "line 2: fp16 = '140%' is no share.", "95%"),
    ('[accelerators.B200]\nmemory = "180 GB"\n', "line 1: there is no accelerator B200.", ""),
    ('[session]\nplatform = "kagle"\n', "line 2: there is no platform kagle.", "Did you mean kaggle?"),
    ('[session]\nstart = "2h"\n', "line 2: start = '2h' is no time.", "2026-11-20T10:00"),
    ('[session]\nlimits = "2h"\n', "line 2: there is no key limits.", "Did you mean limit?"),
    ('[thresholds]\ndrive = "a lot"\n', "line 2: drive = 'a lot' is no amount.", "95%"),
    ("[threshold]\n", "line 1: there is no section threshold.", "Did you mean thresholds?"),
    ("platforms = 3\n", "line 1: platforms is no table.", "[platforms.NAME]"),
    ("[platforms]\nkaggle = 3\n", "line 2: platforms.kaggle is no table.", "[platforms.kaggle]"),
    ("session = 3\n", "line 1: session is no table.", "[session]"),
    ("[platforms.kaggle]\nlimit = 10h\n", "line 2: limit = 10h cannot be read.", "Texts stand in quotes"),
    ("[platforms.kaggle\n", "line 1: [platforms.kaggle cannot be read.", "Texts stand in quotes"),
    ('[session]\nlimit = "1h"\nlimit = "2h"\n', 'line 3: limit = "2h" cannot be read.', ""),
    ('[session]\nlimit = "1h', 'line 2: limit = "1h cannot be read.', ""),
    (f"[session]\nlimit = {'9' * 5000}\n", "line 2: limit = 9", ""),
]  # fmt: skip


@pytest.mark.parametrize(("text", "what", "next_step"), MISTAKES, ids=[what for _, what, _ in MISTAKES])
def test_a_mistake_is_told_with_its_line(text: str, what: str, next_step: str, tmp_path: Path) -> None:
    path = own(tmp_path, text)
    with pytest.raises(ColabMagicsError) as raised:
        load_table(path)
    assert raised.value.what.startswith(what)
    assert str(path) in raised.value.why
    assert next_step in " ".join(raised.value.next_steps)
    assert len(raised.value.lines()) >= 3


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"[session]\nlimit = '\x80'\n"])
def test_a_file_that_is_no_text_is_told(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "session.toml"
    path.write_bytes(content)
    with pytest.raises(ColabMagicsError, match="cannot be read"):
        load_table(path)


def test_a_folder_in_the_files_place_is_told(tmp_path: Path) -> None:
    with pytest.raises(ColabMagicsError, match="cannot be read"):
        load_table(tmp_path)


KEYS = st.sampled_from(
    ["platforms", "kaggle", "limit", "session", "thresholds", "T4", "units", "accelerators", "x y", "#"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(KEYS, VALUES, max_size=4))
def test_whatever_stands_in_a_file_is_used_or_explained(values: dict[str, object]) -> None:
    error = mistake(toml(values))
    assert error is None or 3 <= len(error.lines()) <= 8


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=60))
def test_whatever_text_a_file_is_it_is_used_or_explained(text: str) -> None:
    error = mistake(text)
    assert error is None or error.what.startswith("line ")


def mistake(text: str) -> ColabMagicsError | None:
    """What is said of a file; None where it can be used."""
    try:
        merged(load_table(), Lines("session.toml", text))
    except ColabMagicsError as error:
        return error
    return None


def toml(value: object) -> str:
    """The TOML of a value, inline below the top."""

    def inline(one: object) -> str:
        match one:
            case dict():
                return "{" + ", ".join(f"{inline(str(key))} = {inline(inner)}" for key, inner in one.items()) + "}"
            case list():
                return "[" + ", ".join(map(inline, one)) + "]"
            case bool():
                return str(one).lower()
            case int() | float():
                return repr(one)
            case _:
                escaped = "".join(f"\\U{ord(c):08x}" if ord(c) < 0xD800 or ord(c) > 0xDFFF else "" for c in str(one))
                return f'"{escaped}"'

    assert isinstance(value, dict)
    return "\n".join(f"{inline(str(key))} = {inline(inner)}" for key, inner in value.items())
