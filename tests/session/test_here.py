"""This session: where, since when, until when; and what a person's own word changes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from colab_magics.errors import ColabMagicsError
from colab_magics.session.clock import BootClock
from colab_magics.session.detect import VARIABLE
from colab_magics.session.here import Session, for_worker, this_session
from colab_magics.session.settings import set_value
from colab_magics.session.table import load_table

from .pretended import HOUR, PretendedClock, colab_machine, gpu

pytestmark = pytest.mark.face

Here = Callable[..., Session]


@pytest.fixture
def clock() -> PretendedClock:
    return PretendedClock(before=2 * HOUR)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "session.toml"


@pytest.fixture
def here(clock: PretendedClock, path: Path, tmp_path: Path) -> Here:
    """This session, on a machine that has nothing but what is given."""

    def here(*modules: str, **environ: str) -> Session:
        given = {"COLAB_MAGICS_SESSION": str(path), **environ}
        return this_session(environ=given, modules=modules, clock=clock, files=tmp_path / "root")

    return here


@pytest.fixture
def say(clock: PretendedClock, path: Path) -> Callable[[str, str], object]:
    """`%session set`."""
    return lambda key, text: set_value(key, text, environ={"COLAB_MAGICS_SESSION": str(path)}, clock=clock)


KAGGLE = {"KAGGLE_KERNEL_RUN_TYPE": "Interactive"}


@pytest.mark.parametrize("key", sorted(load_table().platforms))
def test_every_platforms_row_becomes_a_session(here: Here, key: str) -> None:
    session = here(**{VARIABLE: key})
    row = load_table().platforms[key]
    assert session.platform == row
    assert session.age == 2 * HOUR
    assert session.limit == row.limit
    assert session.left == (None if row.limit is None else row.limit - 2 * HOUR)
    assert session.limit_from == "table", "an estimate, and it says so"


@pytest.mark.parametrize(
    ("machine", "modules", "environ", "key", "hours"),
    [
        (colab_machine, ("google.colab",), {}, "colab-free", 10),
        (lambda files: gpu(colab_machine(files), "NVIDIA L4"), ("google.colab",), {}, "colab-pro", 22),
        (None, ("google.colab",), {}, "colab-local", None),
        (None, (), KAGGLE, "kaggle", 10),
        (None, (), {"KAGGLE_KERNEL_RUN_TYPE": "Batch"}, "kaggle-batch", 10),
        (None, (), {"LIGHTNING_CLOUD_SPACE_ID": "01j"}, "lightning", 2),
        (None, (), {"PAPERSPACE_CLUSTER_ID": "c"}, "paperspace", 4),
        (None, (), {"RUNPOD_POD_ID": "p"}, "runpod", None),
        (None, (), {}, "plain", None),
    ],
)
def test_what_is_left_on_each_platform_after_two_hours(
    here: Here,
    tmp_path: Path,
    machine: Callable[[Path], Path] | None,
    modules: tuple[str, ...],
    environ: dict[str, str],
    key: str,
    hours: float | None,
) -> None:
    if machine is not None:
        machine(tmp_path / "root")
    session = here(*modules, **environ)
    assert session.platform.key == key
    assert session.left == (None if hours is None else hours * HOUR)


def test_time_goes_on_while_the_machine_sleeps(here: Here, clock: PretendedClock) -> None:
    clock.passes(3 * HOUR)
    assert here(**KAGGLE).age == 5 * HOUR


@pytest.mark.parametrize("jump", [-86400.0, -1.0, 600.0, 40 * 365 * 86400.0])
def test_a_jump_of_the_time_of_day_does_not_bend_the_age(here: Here, clock: PretendedClock, jump: float) -> None:
    clock.ntp_corrects(jump)
    assert here(**KAGGLE).age == 2 * HOUR


SECONDS = st.floats(0, 30 * 86400)
JUMPS = st.floats(-1e9, 1e9)


@settings(deadline=None)
@given(st.lists(st.tuples(SECONDS, JUMPS), max_size=20))
def test_the_age_is_all_that_passed_and_nothing_that_jumped(moves: list[tuple[float, float]]) -> None:
    clock = PretendedClock(before=HOUR)
    environ = {"COLAB_MAGICS_SESSION": "/absent/session.toml", **KAGGLE}
    ages = []
    for passes, jump in moves:
        clock.passes(passes)
        clock.ntp_corrects(jump)
        ages.append(this_session(environ=environ, modules=(), clock=clock, files=Path("/absent")).age)
    assert ages == sorted(ages)
    assert not ages or ages[-1] == pytest.approx(HOUR + sum(passes for passes, _ in moves))


def test_nor_does_it_bend_a_start_or_an_end_that_was_given_as_a_date(
    here: Here, clock: PretendedClock, say: Callable[[str, str], object]
) -> None:
    say("start", "2026-11-20T07:00Z")
    say("limit", "2026-11-20T18:00Z")
    assert (here(**KAGGLE).age, here(**KAGGLE).left) == (HOUR, 10 * HOUR)
    clock.ntp_corrects(3600)
    clock.passes(HOUR)
    assert (here(**KAGGLE).age, here(**KAGGLE).left) == (2 * HOUR, 9 * HOUR)


def test_a_session_older_than_the_tables_limit_shows_that_the_table_is_wrong(here: Here, clock: PretendedClock) -> None:
    clock.passes(11 * HOUR)
    session = here(**KAGGLE)
    assert session.limit_from == "passed"
    assert session.left is None


def test_a_session_older_than_the_users_own_limit_has_nothing_left(
    here: Here, clock: PretendedClock, say: Callable[[str, str], object]
) -> None:
    say("limit", "3h")
    clock.passes(2 * HOUR)
    session = here(**KAGGLE)
    assert (session.left, session.limit_from, session.limit_key) == (0, "set", "limit")


@pytest.mark.parametrize("ended", ["2026-11-19T22:00Z", "2026-11-20T05:59Z"])
def test_a_date_before_this_boot_is_of_another_session_and_is_forgotten(here: Here, path: Path, ended: str) -> None:
    path.write_text(f'[session]\nlimit = "{ended}"\nstart = "2026-11-19T10:00Z"\n')
    session = here(**KAGGLE)
    assert (session.age, session.left, session.limit_from) == (2 * HOUR, 10 * HOUR, "table")


def test_a_date_within_this_boot_counts_also_where_it_is_past(here: Here, path: Path) -> None:
    path.write_text('[session]\nlimit = "2026-11-20T07:00Z"\n')
    session = here(**KAGGLE)
    assert (session.limit, session.left, session.limit_from) == (HOUR, 0, "set")


def test_a_date_of_another_boot_is_not_made_one_of_this_boot_by_what_is_set_now(
    here: Here, path: Path, say: Callable[[str, str], object]
) -> None:
    path.write_text('[session]\nlimit = "2026-11-19T22:00Z"\n')
    say("start", "1h")
    assert (here(**KAGGLE).age, here(**KAGGLE).left) == (HOUR, 11 * HOUR)


def test_a_start_to_come_that_somebody_wrote_himself_is_told_with_its_line(here: Here, path: Path) -> None:
    path.write_text('# mine\n[session]\nstart = "2026-11-20T09:00Z"\n')
    with pytest.raises(ColabMagicsError, match=r"^line 3: start = 2026-11-20T09:00:00.* is to come\.") as raised:
        here(**KAGGLE)
    assert str(path) in raised.value.why
    assert "08:00" in raised.value.why


def test_what_is_left_is_kept_as_the_end_and_a_correction_of_the_start_moves_it_not(
    here: Here, clock: PretendedClock, say: Callable[[str, str], object]
) -> None:
    say("left", "90 min")
    assert here(**KAGGLE).left == 1.5 * HOUR
    say("start", "5h")
    clock.passes(HOUR)
    assert (here(**KAGGLE).age, here(**KAGGLE).left) == (6 * HOUR, 0.5 * HOUR)


def test_what_is_said_of_kaggle_counts_for_its_saved_versions_unless_they_are_spoken_of(
    here: Here, say: Callable[[str, str], object]
) -> None:
    batch = {"KAGGLE_KERNEL_RUN_TYPE": "Batch"}
    say("kaggle.limit", "9h")
    say("kaggle.weekly", "6h")
    say("kaggle.idle", "1h")
    session = here(**batch)
    assert (session.limit, session.limit_from, session.limit_key) == (9 * HOUR, "set", "kaggle.limit")
    assert (session.platform.weekly, session.platform.idle) == (6 * HOUR, None)
    assert {"limit", "weekly"} <= set(session.platform.certain)
    say("kaggle-batch.limit", "11h")
    session = here(**batch)
    assert (session.limit, session.limit_key, here(**KAGGLE).limit) == (11 * HOUR, "kaggle-batch.limit", 9 * HOUR)


def test_a_limit_holds_at_once_and_until_the_machine_is_another(
    here: Here, clock: PretendedClock, say: Callable[[str, str], object]
) -> None:
    assert here(**KAGGLE).limit == 12 * HOUR
    say("limit", "9h")
    assert (here(**KAGGLE).limit, here(**KAGGLE).limit_from) == (9 * HOUR, "set")
    clock.life = "next-boot+17"
    assert (here(**KAGGLE).limit, here(**KAGGLE).limit_from) == (12 * HOUR, "table")


def test_a_platforms_limit_holds_on_every_machine(
    here: Here, clock: PretendedClock, say: Callable[[str, str], object]
) -> None:
    say("kaggle.limit", "9h")
    clock.life = "next-boot+17"
    assert (here(**KAGGLE).limit, here(**KAGGLE).limit_from) == (9 * HOUR, "set")
    assert here(**{VARIABLE: "lightning"}).limit_from == "table"


def test_none_takes_a_limit_away(here: Here, say: Callable[[str, str], object]) -> None:
    say("limit", "none")
    assert (here(**KAGGLE).limit, here(**KAGGLE).left, here(**KAGGLE).limit_from) == (None, None, "set")


def test_an_idle_limit_may_be_said_to_be_another(here: Here, say: Callable[[str, str], object]) -> None:
    say("idle", "1h")
    assert here(**KAGGLE).platform.idle == HOUR


def test_a_limit_that_somebody_wrote_into_the_file_himself_is_of_no_boot(here: Here, path: Path) -> None:
    path.write_text('[session]\nlimit = "7h"\n')
    assert here(**KAGGLE).limit == 7 * HOUR


def test_the_users_word_on_the_platform_wins_over_the_variable_and_the_marks(
    here: Here, path: Path, say: Callable[[str, str], object]
) -> None:
    say("platform", "colab-pro-plus")
    session = here("google.colab", **{VARIABLE: "colab-free"})
    assert (session.platform.key, session.evidence) == ("colab-pro-plus", f"set in {path}")


def test_a_variable_that_names_no_platform_is_told_with_the_nearest(here: Here) -> None:
    assert here(**{VARIABLE: "Kaggle"}).platform.key == "kaggle"
    with pytest.raises(ColabMagicsError) as raised:
        here(**{VARIABLE: "kagle"})
    assert raised.value.lines() == [
        "There is no platform kagle.",
        "The environment variable COLAB_MAGICS_PLATFORM names it.",
        "→ Did you mean kaggle?",
    ]


def test_a_mistake_in_the_users_file_is_told_with_its_line(here: Here, path: Path) -> None:
    path.write_text('[session]\nlimit = "10 hous"\n')
    with pytest.raises(ColabMagicsError, match=r"line 2: limit = '10 hous' is no time\."):
        here(**KAGGLE)


@pytest.mark.parametrize("limit", ["9h", "9 hous"])
def test_asked_again_nothing_is_read_that_has_not_changed(
    here: Here, path: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    path.write_text(f'[platforms.kaggle]\nlimit = "{limit}"\n')
    read: list[Path] = []
    whole = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda self, *a, **k: read.append(self) or whole(self, *a, **k))
    for _ in range(100):
        with nullcontext() if limit == "9h" else pytest.raises(ColabMagicsError, match="line 2"):
            here(**KAGGLE)
    assert read == [path]


def test_a_process_that_colabs_kernel_starts_knows_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google.colab", type(sys)("google.colab"))
    ask = "from colab_magics.session.here import this_session; print(this_session().platform.key)"
    paths = [str(Path(__file__).resolve().parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **for_worker()}
    told = subprocess.run(
        [sys.executable, "-c", ask], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    assert told.stdout.strip() == this_session().platform.key == "colab-local"


def test_this_very_session_has_an_age() -> None:
    session = this_session(environ={"COLAB_MAGICS_SESSION": "/absent/session.toml"})
    assert session.age is not None
    assert session.age == pytest.approx(BootClock().now() - BootClock().started(), abs=60)
