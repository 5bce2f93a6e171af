"""Which checkpoints are pinned, and which is the newest that is confirmed."""

from __future__ import annotations

from pathlib import Path

from colab_magics.checkpoints.marks import newest_confirmed, pinned
from colab_magics.events import EventLog


def told(folder: Path, *news: tuple[str, str]) -> None:
    log = EventLog(folder / "replica.jsonl", 1)
    for state, name in news:
        log.append("replica", state=state, checkpoint=name)
    log.close()


def test_the_newest_confirmed_is_the_newest_and_not_the_last_to_be_confirmed(tmp_path: Path) -> None:
    told(tmp_path, ("confirmed", "00000400-a1"), ("handed over", "00000900-a2"), ("confirmed", "00000100-a1"))
    assert newest_confirmed(tmp_path) == "00000400-a1"
    told(tmp_path, ("confirmed", "00000300-a2"))  # a later attempt's is newer, whatever its step
    assert newest_confirmed(tmp_path) == "00000300-a2"


def test_without_a_replica_or_with_nonsense_in_its_log_none_is_confirmed(tmp_path: Path) -> None:
    assert newest_confirmed(tmp_path) is None
    told(tmp_path, ("confirmed", "../../etc"), ("waiting", "00000100-a1"))
    assert newest_confirmed(tmp_path) is None


def test_only_names_of_checkpoints_are_pins(tmp_path: Path) -> None:
    assert pinned(tmp_path) == frozenset()
    (tmp_path / "pins").mkdir()
    for name in ("00000400-a1", ".DS_Store"):
        (tmp_path / "pins" / name).touch()
    assert pinned(tmp_path) == {"00000400-a1"}
