"""The panel of a loop of one's own: of the run as its log tells it, and of its copy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from colab_magics.checkpoints import replica as replicas
from colab_magics.events import EventReader
from colab_magics.magics.display import Nowhere, Panel, Screen
from colab_magics.panel.state import PanelState
from colab_magics.run import Run


class PanelView:
    """The run's panel, drawn in the loop's own thread."""

    def __init__(self, run: Run, screen: Screen, attempt: int) -> None:
        self._state = PanelState(name=run.name).fold_all(run.events())  # of the attempts before
        self._panel = Panel(screen)
        self._is_seen = not isinstance(screen, Nowhere)
        self._attempt = attempt
        self._replica = EventReader(run.folder / replicas.LOG)

    def fold(self, event: Mapping[str, Any]) -> None:
        if self._is_seen:
            self._state = self._state.fold(event)

    def draw(self) -> None:
        if not self._is_seen:
            return
        self._hear_of_the_copy()
        self._panel.update(self._state)

    def _hear_of_the_copy(self) -> None:
        for event in self._replica.read():
            if event.get("attempt") == self._attempt:
                self._state = self._state.fold(event)

    def finish(self) -> None:
        if self._is_seen:
            self._hear_of_the_copy()
        # the error itself is shown below the panel, which need not say it too
        self._panel.finish(replace(self._state, failure=(), said_below=True))
        self._replica.close()
