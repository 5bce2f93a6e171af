"""What a session's tests pretend: a clock that can be moved, and the machines of the platforms."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path

HOUR = 3600.0


class PretendedClock:
    """A machine that was started `before` seconds ago, and whose clocks are moved by hand."""

    def __init__(self, before: float = HOUR, boot: str = "this-boot+24") -> None:
        self.machine = 500.0 + before  # the boot clock; the container came 500 s after the boot
        self.time_of_day = datetime(2026, 11, 20, 8, 0, tzinfo=timezone.utc)
        self.life = boot

    def now(self) -> float:
        return self.machine

    def started(self) -> float:
        return 500.0

    def boot(self) -> str:
        return self.life

    def wall(self) -> datetime:
        return self.time_of_day

    def passes(self, seconds: float) -> None:
        """Time goes on, whether the machine is awake or asleep."""
        self.machine += seconds
        self.time_of_day += timedelta(seconds=seconds)

    def ntp_corrects(self, seconds: float) -> None:
        """Only the time of day jumps."""
        self.time_of_day += timedelta(seconds=seconds)


def gpu(files: Path, model: str) -> Path:
    """A machine whose driver tells of one GPU."""
    folder = files / "proc/driver/nvidia/gpus/0000:00:04.0"
    folder.mkdir(parents=True)
    (folder / "information").write_text(f"Model: \t\t {model}\nIRQ:   \t\t 33\nGPU UUID: \t GPU-3f\n")
    return files


def colab_machine(files: Path) -> Path:
    """The file that Google's own machines have."""
    (files / "var/colab").mkdir(parents=True)
    (files / "var/colab/hostname").write_text("gpu-t4-s-kkb\n")
    return files
