"""What the reader of a cell did with it, in as few lines as say it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Notes:
    """Collects what became of the keys; `lines` groups them."""

    renamed: dict[str, str] = field(default_factory=dict)
    ignored: dict[str, list[str]] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)

    def rename(self, spelling: str, key: str) -> None:
        self.renamed[spelling] = key

    def ignore(self, key: str, reason: str) -> None:
        keys = self.ignored.setdefault(reason, [])
        if key not in keys:
            keys.append(key)

    def say(self, line: str) -> None:
        if line not in self.said:
            self.said.append(line)

    def lines(self) -> tuple[str, ...]:
        """Read-as line first, then what was translated, then what has no effect, by reason."""
        read_as = [f"{spelling} → {key}" for spelling, key in self.renamed.items()]
        return (
            *([f"read as: {', '.join(read_as)}"] if read_as else []),
            *self.said,
            *(f"no effect here: {', '.join(keys)} ({reason})" for reason, keys in self.ignored.items()),
        )
