"""What a panel sends, in real kernels of both stacks: whose it is, how often, how much, and that it ends."""

from __future__ import annotations

import json
import os
import queue
import re
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest

from colab_magics import worker

from .conftest import ROWS, Home, Kernel, wait_for

pytestmark = [pytest.mark.colab, pytest.mark.xdist_group("panel-messages")]

VIEW = "application/vnd.jupyter.widget-view+json"
DRAWN = ("display_data", "update_display_data")
COMMS = ("comm_open", "comm_msg", "comm_close")
ENDLESS = f"model: demo\ndata: {ROWS}\nmax_steps: 100000\neffective_batch_size: 1"
SHORT = f"model: demo\ndata: {ROWS}\nmax_steps: 60\neffective_batch_size: 1"
WRONG = f"model: demo\ndata: {ROWS}\nmax_steps: 60\ntarget_modules: [nowhere_proj]"


@dataclass
class Sent:
    """All that a kernel published while it was listened to."""

    messages: list[dict[str, Any]] = field(default_factory=list)

    def of(self, *kinds: str) -> list[dict[str, Any]]:
        return [message for message in self.messages if message["msg_type"] in kinds]

    def frames(self) -> list[dict[str, Any]]:
        """The messages of the panel's first output: live frames, and the one that stays."""
        shown = self.of(*DRAWN)
        first = shown[0]["content"]["transient"]["display_id"]
        return [message for message in shown if message["content"]["transient"]["display_id"] == first]

    def html_of_widgets(self) -> list[dict[str, Any]]:
        """The messages that give the live widget, which is made first, a new frame."""
        live = [
            one["content"]["comm_id"] for one in self.of("comm_open") if state_in(one).get("_view_name") == "HTMLView"
        ]
        return [
            one for one in self.of("comm_msg") if one["content"]["comm_id"] in live[:1] and "value" in state_in(one)
        ]

    def button(self, label: str) -> str:
        """The comm of the button that says so."""
        opened = [one for one in self.of("comm_open") if state_in(one).get("description") == label]
        return str(opened[-1]["content"]["comm_id"])


def state_in(message: dict[str, Any]) -> dict[str, Any]:
    return dict(message["content"].get("data", {}).get("state", {}))


def sent_at(message: dict[str, Any]) -> float:
    return float(message["header"]["date"].timestamp())


def is_idle(message: dict[str, Any], cell: str) -> bool:
    return (
        message["msg_type"] == "status"
        and message["content"]["execution_state"] == "idle"
        and message["parent_header"].get("msg_id") == cell
    )


def listen(kernel: Kernel, until: Callable[[Sent], bool], sent: Sent | None = None, timeout: float = 90) -> Sent:
    """Gather what the kernel publishes until that holds."""
    sent, end = sent or Sent(), time.monotonic() + timeout
    while not until(sent):
        assert time.monotonic() < end, f"waited in vain; the last: {sent.messages[-3:]}"
        try:
            sent.messages.append(kernel.client.get_iopub_msg(timeout=1))
        except queue.Empty:
            continue
    return sent


def cell_ends(cell: str) -> Callable[[Sent], bool]:
    return lambda sent: bool(sent.messages) and is_idle(sent.messages[-1], cell)


def silence(kernel: Kernel) -> Sent:
    """What is published while another cell runs for longer than a frame takes."""
    return listen(kernel, cell_ends(kernel.send("import time; time.sleep(1.2)")))


def check_pace(messages: list[dict[str, Any]]) -> None:
    """At most two a second; the last comes whenever the end does."""
    times = [sent_at(message) for message in messages[:-1]]
    assert all(later - earlier > 0.4 for earlier, later in pairwise(times))


def check_sizes(sent: Sent) -> None:
    for message in sent.of(*DRAWN, *COMMS):
        assert len(json.dumps(message["content"], ensure_ascii=False).encode()) < 20_000


@pytest.fixture(scope="module")
def kernel(kernel: Kernel, warm: Any) -> Kernel:
    """A kernel whose workers start in a moment."""
    kernel.run(warm.cell)
    return kernel


@pytest.fixture(autouse=True)
def _ready(kernel: Kernel) -> None:
    """For a moment after a cell's error a kernel drops whatever comes."""
    kernel.value("0")


def interrupted(kernel: Kernel, home: Home, run: str) -> None:
    wait_for(lambda: home.steps(run) > 20)
    kernel.interrupt()


@pytest.mark.parametrize("end", ["finished", "failed", "stopped"])
@pytest.mark.parametrize("kind", ["html", "widget"])
def test_all_messages_belong_to_the_cell_and_none_comes_after_it(
    kernel: Kernel, home: Home, kind: str, end: str
) -> None:
    run = f"{kind}-{end}"
    body = {"finished": SHORT, "failed": WRONG, "stopped": ENDLESS}[end]
    cell = kernel.send(f"%%finetune {run} --panel {kind}\n{body}")
    if end == "stopped":
        interrupted(kernel, home, run)
    sent = listen(kernel, cell_ends(cell))
    assert {message["parent_header"]["msg_id"] for message in sent.of(*DRAWN, *COMMS)} == {cell}
    check_pace(sent.frames())
    check_pace(sent.html_of_widgets())
    check_sizes(sent)
    assert not silence(kernel).of(*DRAWN, *COMMS, "stream")

    # what stays is plain, and says how it ended
    last = sent.frames()[-1]["content"]["data"]
    assert set(last) == {"text/html", "text/plain"}
    assert end in last["text/plain"]
    assert end in last["text/html"]
    assert bool(sent.of("error")) == (end != "finished"), [one["content"] for one in sent.of("error")]
    # the widgets stay, with the last frame in them: a page that was loaded again shows these
    assert bool(sent.of("comm_open")) == (kind == "widget")
    assert not sent.of("comm_close")
    if kind == "widget":
        assert end in state_in(sent.html_of_widgets()[-1])["value"]


def test_plan_and_data_are_sent_once_and_again_only_if_they_change(kernel: Kernel) -> None:
    sent = listen(kernel, cell_ends(kernel.send(f"%%finetune settled --panel html\n{SHORT}")))
    live = {id(message) for message in sent.frames()}
    settled = [one["content"]["data"]["text/html"] for one in sent.of(*DRAWN) if id(one) not in live]
    assert 1 <= len(settled) <= 3
    assert all(one != other for one, other in pairwise(settled))


def test_a_run_in_the_background_moves_on_hears_its_buttons_and_ends_as_plain_output(
    kernel: Kernel, home: Home
) -> None:
    cell = kernel.send(f"%%finetune behind --background --out behind\n{ENDLESS}")
    sent = listen(kernel, cell_ends(cell))
    assert [VIEW in shown["content"]["data"] for shown in sent.of("display_data")] == [False, False, True]
    assert worker.is_alive(home.runs / "behind")

    # while the kernel is free, only the frame moves
    before = len(sent.frames())
    assert "Interrupt this cell" not in sent.frames()[-1]["content"]["data"]["text/html"]
    listen(kernel, lambda sent: len(sent.frames()) >= before + 5, sent)
    idle = next(place for place, message in enumerate(sent.messages) if is_idle(message, cell))
    assert {message["msg_type"] for message in sent.messages[idle + 1 :]} == {"update_display_data"}
    assert {message["parent_header"]["msg_id"] for message in sent.of(*DRAWN)} == {cell}
    check_pace([*sent.frames(), {}])
    check_sizes(sent)
    for frame in sent.frames()[before:]:
        assert re.search(r"As of \d\d:\d\d UTC", frame["content"]["data"]["text/plain"])
        assert "Interrupt this cell" not in frame["content"]["data"]["text/html"]

    # %panel shows it once more, without waiting
    again = listen(kernel, cell_ends(kernel.send("%panel behind")))
    assert [VIEW in shown["content"]["data"] for shown in again.of("display_data")] == [False, False, True]

    # Save and Stop are heard between two cells, and say so
    saved = sent.button("Save")
    click(kernel, saved)
    listen(kernel, lambda sent: says(sent, saved, "Saving…"), again)
    wait_for(lambda: any(event["kind"] == "checkpoint" for event in home.events("behind")))
    listen(kernel, lambda sent: says(sent, saved, "Save"), again)
    listen(
        kernel,
        lambda sent: any("saved just now" in str(one["content"]) for one in sent.of("update_display_data")[-1:]),
        again,
    )
    click(kernel, again.button("Stop"))
    ended = listen(kernel, lambda sent: len(plain_ends(sent)) == 2 and len(emptied(sent)) == 2)
    assert home.events("behind")[-1]["reason"] == "stopped"
    for message in plain_ends(ended):
        assert set(message["content"]["data"]) == {"text/html", "text/plain"}
        assert "%checkpoint resume behind goes on from step" in message["content"]["data"]["text/plain"]
    check_sizes(ended)
    assert not ended.of("comm_close")
    assert not silence(kernel).of(*DRAWN, "comm_msg", "stream")


def says(sent: Sent, button: str, label: str) -> bool:
    """Whether the button's label is that now."""
    labels = [
        state_in(one)["description"]
        for one in sent.of("comm_msg")
        if one["content"]["comm_id"] == button and "description" in state_in(one)
    ]
    return labels[-1:] == [label]


def plain_ends(sent: Sent) -> list[dict[str, Any]]:
    """The last frame of each panel that says that the run was stopped."""
    frames = sent.of("update_display_data")
    ends = [one for one in frames if ": stopped" in one["content"]["data"]["text/plain"].partition("\n")[0]]
    return list({one["content"]["transient"]["display_id"]: one for one in ends}.values())


def emptied(sent: Sent) -> list[dict[str, Any]]:
    return [one for one in sent.of("update_display_data") if not any(one["content"]["data"].values())]


def test_a_run_in_the_background_that_is_killed_says_where_why_and_how_to_go_on(kernel: Kernel, home: Home) -> None:
    sent = listen(kernel, cell_ends(kernel.send(f"%%finetune lost --background\n{ENDLESS}\nsave_every: 5 steps")))
    wait_for(lambda: any(event["kind"] == "checkpoint" for event in home.events("lost")))
    pid = worker.alive_pid(home.runs / "lost")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    listen(kernel, lambda sent: "unfinished" in sent.frames()[-1]["content"]["data"]["text/plain"], sent)
    last = sent.frames()[-1]["content"]["data"]
    for words in (
        "The worker of lost ended without a word at step",
        "It was killed (signal 9)",
        "worker-01.log",
        "%checkpoint resume lost goes on from step",
    ):
        assert words in last["text/plain"]
        assert words in last["text/html"]
    assert re.search(r"ended \d{4}-\d\d-\d\d \d\d:\d\d UTC", last["text/plain"])

    # the kernel waited for its child; what the system still has to let go of (its lock) may take a moment more
    wait_for(lambda: not worker.is_alive(home.runs / "lost"))
    again = kernel.run("%panel lost")
    assert "The worker of lost ended without a word at step" in again.panel[-1]["text/plain"]
    assert "It was killed (signal 9)" in again.panel[-1]["text/plain"]


def click(kernel: Kernel, comm: str) -> None:
    """What a front end sends when a button is pressed."""
    content = {"comm_id": comm, "data": {"method": "custom", "content": {"event": "click"}}}
    kernel.client.shell_channel.send(kernel.client.session.msg("comm_msg", content))


def test_unloading_ends_what_moves_and_leaves_a_plain_frame(kernel: Kernel, home: Home) -> None:
    sent = listen(kernel, cell_ends(kernel.send(f"%%finetune left --background\n{ENDLESS}")))
    listen(kernel, lambda sent: "training" in sent.frames()[-1]["content"]["data"]["text/plain"], sent)
    try:
        gone = listen(kernel, cell_ends(kernel.send("%unload_ext colab_magics")))
        # the frame that stays may be one of before: one that is drawn already is not sent again
        stays = Sent([*sent.messages, *gone.messages]).frames()[-1]
        assert "As of" in stays["content"]["data"]["text/html"]
        assert emptied(Sent(gone.of("update_display_data")[-1:]))
        assert not silence(kernel).of(*DRAWN, *COMMS)
        assert worker.is_alive(home.runs / "left")
    finally:
        kernel.run("%load_ext colab_magics")  # whatever comes of it, the tests below need it


@pytest.mark.parametrize(("kind", "forms"), [("html", {"text/html", "text/plain"}), ("text", {"text/plain"})])
def test_html_and_text_move_in_the_background_too_and_end_with_their_last_frame(
    kernel: Kernel, home: Home, kind: str, forms: set[str]
) -> None:
    run = f"quiet-{kind}"
    sent = listen(kernel, cell_ends(kernel.send(f"%%finetune {run} --background --panel {kind}\n{ENDLESS}")))
    before = len(sent.frames())
    listen(kernel, lambda sent: len(sent.frames()) >= before + 3, sent)
    assert "training" in sent.frames()[-1]["content"]["data"]["text/plain"]
    again = listen(kernel, cell_ends(kernel.send(f"%panel {run} --panel {kind}")))
    later = listen(kernel, cell_ends(kernel.send(f"%panel {run} --panel {kind}")))
    assert any("shown again below" in one["content"]["data"]["text/plain"] for one in later.of(*DRAWN))
    listen(kernel, lambda sent: len(sent.frames()) >= 3, later)
    worker.kill(home.runs / run)
    ended = listen(kernel, lambda sent: len(plain_ends(sent)) == 2)
    for one in (sent, again, later, ended):
        assert {form for shown in one.of(*DRAWN) for form in shown["content"]["data"]} == forms
        assert not one.of(*COMMS)
    assert not silence(kernel).of(*DRAWN)


def test_of_several_that_are_alive_one_must_be_named(kernel: Kernel, home: Home) -> None:
    kernel.run(f"%%finetune other --background --panel off\n{ENDLESS}")  # `left` is still alive
    several = kernel.run("%panel")
    assert several.error == "ColabMagicsError"
    assert "%panel" in several.traceback[-1]
    for run in ("left", "other"):
        worker.kill(home.runs / run)
    ended = kernel.run("%panel left")
    assert "stopped" in ended.panel[-1]["text/plain"]
    assert VIEW not in ended.panel[-1]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("lefd", "Did you mean left?"),
        ("--panel htlm", "Did you mean --panel html?"),
        ("--pannel html", "Did you mean --panel?"),
        ("left quiet", "Name one of them"),
        ("--root", "--root DIR"),
        ("'left", "Close the quote"),
    ],
)
def test_what_panel_cannot_do_is_said_in_a_few_lines(kernel: Kernel, line: str, said: str) -> None:
    reply = kernel.run(f"%panel {line}")
    assert reply.error == "ColabMagicsError"
    assert said in "\n".join(reply.traceback)
    assert len(reply.traceback) <= 4
