"""The machine's own memory, within what a container may use of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_UNLIMITED = 2**62  # version 1 of the control groups writes "no limit" as a number a little larger than this


@dataclass(frozen=True)
class Host:
    """Bytes of memory: all there is, and what a process could still get."""

    total: int
    free: int

    @property
    def used(self) -> int:
        return max(0, self.total - self.free)


def host_memory(root: Path = Path("/sys/fs/cgroup")) -> Host:
    """psutil reports the whole machine; a container is ended at its own limit.

    Parameters
    ----------
    root : where the control groups are mounted
    """
    import psutil

    machine = psutil.virtual_memory()
    total, free = int(machine.total), int(machine.available)
    limit = _container(root)
    if limit is None or limit.total >= total:
        return Host(total, free)
    return Host(limit.total, min(free, limit.free))


def _container(root: Path) -> Host | None:
    """The container's limit and what it leaves; the files cached for it count as free, as the kernel gives them up."""
    for folder, limit_file, used_file, cached in (
        (root, "memory.max", "memory.current", "inactive_file"),
        (root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            limit = (folder / limit_file).read_text().strip()
            if limit == "max" or int(limit) >= _UNLIMITED:
                return None
            used = int((folder / used_file).read_text())
            figures = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            return Host(int(limit), max(0, int(limit) - used + int(figures.get(cached, "0"))))
        except (OSError, ValueError):
            continue
    return None


def process_limit() -> tuple[str, int] | None:
    """The least of what the system lets this process have, and what it is called; None without a limit."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    names = ("RLIMIT_DATA", "RLIMIT_AS")
    limits = [(resource.getrlimit(getattr(resource, name))[0], name) for name in names if hasattr(resource, name)]
    told = [(limit, name) for limit, name in limits if limit != resource.RLIM_INFINITY and 0 <= limit < _UNLIMITED]
    return (min(told)[1], min(told)[0]) if told else None
