"""The panel's buttons, and the panel as widgets: two pieces of HTML, and the buttons where the kernel can hear them.

It is fed by the same renderer as the others; nothing is drawn here. Works with ipywidgets 7.7 to 8.x.

Nothing is closed while the kernel lives: a page that was loaded again asks it for the models that its notebook names,
and shows an error in the place of each that is gone.
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


class Buttons:
    """Stop and Save, in a row that is hidden until somebody listens.

    Attributes
    ----------
    row : ipywidgets.HBox
    buttons : dict
        By their orders.
    """

    def __init__(self) -> None:
        import ipywidgets

        self.buttons: dict[str, Any] = {
            order: ipywidgets.Button(description=label, tooltip=tooltip)
            for order, (label, _, tooltip) in _BUTTONS.items()
        }
        self.row = ipywidgets.HBox(list(self.buttons.values()), layout=ipywidgets.Layout(display="none"))

    def offer(self, orders: Mapping[str, Callable[[], None]]) -> None:
        """Show the buttons, and have each call its order's function."""
        for order, button in self.buttons.items():
            button.on_click(lambda _, order=order, act=orders[order]: self._pressed(order, act))
        self.row.layout.display = None

    def pending(self, orders: Collection[str]) -> None:
        """Show which orders were given and are not done: their buttons say so, and cannot be pressed."""
        for order in self.buttons:
            self._mark(order, given=order in orders)

    def hide(self) -> None:
        """Take them from every page, for good."""
        self.row.layout.display = "none"

    def view(self) -> dict[str, Any]:
        """What a display bundle holds for a front end that has widgets."""
        return view_of(self.row)

    def _pressed(self, order: str, act: Callable[[], None]) -> None:
        # at once: the worker may take the order, or the next cell may begin, before anybody looks again
        self._mark(order, given=True)
        act()

    def _mark(self, order: str, *, given: bool) -> None:
        label, busy, _ = _BUTTONS[order]
        self.buttons[order].description = busy if given else label
        self.buttons[order].disabled = given


class Widgets:
    """The live frame, then the buttons, then plan and data.

    Plan and data are a widget of their own, which is sent again only when they change: so what a person has unfolded
    there stays open.

    Parameters
    ----------
    with_buttons : bool
        Whether there are buttons. They are made with the rest: the classic notebook may show nothing at all if a box is
        given more children while it is being put on the page.

    Attributes
    ----------
    buttons : Buttons, optional
    """

    def __init__(self, *, with_buttons: bool = False) -> None:
        import ipywidgets

        self._live = ipywidgets.HTML()
        self._details = ipywidgets.HTML()
        self.buttons = Buttons() if with_buttons else None
        row = [self.buttons.row] if self.buttons is not None else []
        self._box = ipywidgets.VBox([self._live, *row, self._details])

    def show(self, live: str, details: str) -> None:
        """Put new HTML in place; what is there already is not sent again."""
        self._live.value = live
        self._details.value = details

    def view(self) -> dict[str, Any]:
        """What a display bundle holds for a front end that has widgets."""
        return view_of(self._box)


def view_of(widget: Any) -> dict[str, Any]:
    """The bundle's part that names `widget`.

    `display(widget, display_id=...)` would lose the id on ipywidgets 7, where a widget displays itself.
    """
    return {VIEW: {"version_major": 2, "version_minor": 0, "model_id": widget.model_id}}
