"""The panel as widgets: two pieces of HTML, and buttons where the kernel can hear them.

It is fed by the same renderer as the others; nothing is drawn here. Works with ipywidgets 7.7 to 8.x.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

VIEW = "application/vnd.jupyter.widget-view+json"

# order -> what its button says, before and after it was pressed, and what a pointer on it tells
_BUTTONS = {
    "stop": ("Stop", "Stopping…", "Finish this step, save, write the result, and end"),
    "save": ("Save", "Saving…", "Take a checkpoint now, and train on"),
}


class Widgets:
    """The live frame, then the buttons, then plan and data.

    Plan and data are a widget of their own, which is sent again only when they change: so what a person has unfolded
    there stays open.

    Parameters
    ----------
    with_buttons : bool
        Whether there are buttons, which are hidden until somebody listens. They are made with the rest: the classic
        notebook may show nothing at all if a box is given more children while it is being put on the page.

    Attributes
    ----------
    buttons : dict
        By their orders.
    """

    def __init__(self, *, with_buttons: bool = False) -> None:
        import ipywidgets

        self._live = ipywidgets.HTML()
        self._details = ipywidgets.HTML()
        self.buttons: dict[str, Any] = {}
        if with_buttons:
            for order, (label, _, tooltip) in _BUTTONS.items():
                self.buttons[order] = ipywidgets.Button(description=label, tooltip=tooltip)
        self._row = ipywidgets.HBox(list(self.buttons.values()), layout=ipywidgets.Layout(display="none"))
        self._box = ipywidgets.VBox([self._live, self._row, self._details])

    def show(self, live: str, details: str) -> None:
        """Put new HTML in place; what is there already is not sent again."""
        self._live.value = live
        self._details.value = details

    def offer(self, orders: Mapping[str, Callable[[], None]]) -> None:
        """Show the buttons, and have each call its order's function."""
        for order, button in self.buttons.items():
            button.on_click(lambda _, act=orders[order]: act())
        self._row.layout.display = None

    def pending(self, orders: Collection[str]) -> None:
        """Show which orders were given and not yet taken: their buttons say so, and cannot be pressed."""
        for order, button in self.buttons.items():
            label, given, _ = _BUTTONS[order]
            button.description = given if order in orders else label
            button.disabled = order in orders

    def view(self) -> dict[str, Any]:
        """What a display bundle holds for a front end that has widgets.

        `display(widget, display_id=...)` would lose the id on ipywidgets 7, where a widget displays itself.
        """
        return {VIEW: {"version_major": 2, "version_minor": 0, "model_id": self._box.model_id}}

    def close(self) -> None:
        """Take all of it from the page and from the kernel, so that no state of it is saved."""
        for widget in (self._box, self._row, self._live, self._details, *self.buttons.values()):
            for part in (widget.layout, getattr(widget, "style", None), widget):
                if part is not None:
                    part.close()
        self.buttons = {}
