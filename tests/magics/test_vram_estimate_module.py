"""`%vram estimate net --batch x`: what it says of any torch module, and that it leaves that module as it was."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from colab_magics.errors import ColabMagicsError
from colab_magics.magics.vram_estimate import estimate

torch = pytest.importorskip("torch")
MIB = 2**20


@pytest.fixture
def told(tmp_path: Path) -> Any:
    """What the line gives for these variables."""

    def ask(line: str, **variables: Any) -> Any:
        return estimate(shlex.split(line), tmp_path, None, variables)

    return ask


def _text(made: Any) -> str:
    return str(made._repr_mimebundle_()["text/plain"])


def _linear() -> dict[str, Any]:
    net = torch.nn.Linear(2000, 2000)
    return {"net": net, "x": torch.rand(8, 2000), "opt": torch.optim.AdamW(net.parameters())}


def test_states_are_what_the_optimizer_keeps_and_its_temporaries_are_told_apart(told):
    parts = told("net --batch x --optimizer opt --gpu cpu", **_linear()).cards[0].parts
    one = 2000 * 2001 * 4
    assert parts["optimizer"] == pytest.approx(2 * one, rel=0.001)
    assert parts["step"] == pytest.approx(2 * one, rel=0.001)
    assert parts["gradients"] == pytest.approx(one, rel=0.001)


def test_on_a_gpu_the_step_is_the_one_that_cuda_takes_unless_the_optimizer_says_otherwise(told):
    given = _linear()
    by_default = told("net --batch x --optimizer opt --gpu T4", **given).cards[0].peak
    said = torch.optim.AdamW(given["net"].parameters(), foreach=False)
    one_by_one = told("net --batch x --optimizer opt --gpu T4", **{**given, "opt": said}).cards[0].peak
    assert by_default / (2000 * 2001 * 4) == pytest.approx(5, rel=0.01)  # weights, gradients, states, and one more
    assert one_by_one / (2000 * 2001 * 4) == pytest.approx(6, rel=0.01)
    assert given["opt"].param_groups[0]["foreach"] is None, "the user's own optimizer is not changed"


class Noting(torch.nn.Module):
    """Notes in its attributes what it does, as people do."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.calls, self.last, self.log = torch.nn.Linear(4, 4), 0, None, ["begun"]

    def forward(self, x: Any) -> Any:
        self.calls += 1
        self.last = self.inner(x)
        self.log.append(self.last)
        self.inner.seen = x
        print("forward", self.calls)
        return self.last


def test_the_module_is_left_as_it_was_and_its_prints_are_not_shown(told, capsys):
    net = Noting()
    before = [dict(vars(one)) for one in net.modules()]
    told("net --batch x", net=net, x=torch.rand(2, 4))
    assert [dict(vars(one)) for one in net.modules()] == before
    assert net.log == ["begun"]
    assert capsys.readouterr().out == ""


def test_of_a_trace_that_failed_too(told):
    class Failing(Noting):
        def forward(self, x: Any) -> Any:
            return super().forward(x) if self.calls else super().forward(x).numpy()

    net = Failing()
    told("net --batch x", net=net, x=torch.rand(2, 4))
    assert (net.calls, net.last) == (0, None)


@pytest.mark.parametrize(
    ("make", "x", "gpu", "named"),
    [
        (lambda: torch.nn.Conv2d(3, 4, 3), (1, 3, 8, 8), "cpu", "convolutions"),
        (lambda: torch.nn.Conv2d(3, 4, 3), (1, 3, 8, 8), "T4", "convolutions"),
        (lambda: torch.nn.GRU(4, 4), (3, 4), "T4", "recurrent layers"),
        (lambda: torch.nn.LSTM(4, 4), (3, 4), "cpu", "recurrent layers"),
        (lambda: torch.nn.GRU(4, 4), (3, 4), "cpu", ""),  # a CPU composes it, and all of it is seen
        (lambda: torch.nn.Linear(4, 4), (3, 4), "T4", ""),
    ],
)
def test_where_kernels_have_workspaces_it_is_said(told, make, x, gpu, named):
    said = _text(told(f"net --batch x --gpu {gpu}", net=make(), x=torch.rand(*x)))
    assert (f"It has {named}: what their kernels take for themselves is not in it" in said) is bool(named)
    assert ("It has " in said) is bool(named)


def test_an_lstm_is_traced_step_by_step_for_a_gpu(told):
    given = {"net": torch.nn.LSTM(64, 256), "x": torch.rand(100, 8, 64)}
    on_gpu, on_cpu = (told(f"net --batch x --gpu {gpu}", **given).cards[0].parts for gpu in ("T4", "cpu"))
    gates = 100 * 8 * 4 * 256 * 4
    assert on_gpu["activations"] > gates
    assert on_gpu["activations"] > on_cpu["activations"]


def by_itself(out: Any) -> Any:
    return out.sum()


@pytest.mark.parametrize(
    ("line", "what", "next_step"),
    [
        ("net --batch x --loss by_itself", "--loss by_itself cannot be called with what net gives",
         "It is called as by_itself(output, batch)"),
        ("net --batch x --optimizer others", "others has none of the weights of net", "Make it of net.parameters()"),
        ("words --batch x", "words cannot be called with x", "The batch is a tensor"),
        ("net --batch x --optimizer opt5", "--optimizer opt5 is no optimizer", "Write --optimizer adamw"),
        ("net --batch x --optimizer torch.optim.SGD", "torch.optim.SGD is no optimizer", "Did you mean sgd?"),
        ("net --batch x --loss nope", "--loss nope: there is no such variable", "Run the cell that makes it first"),
        ("several[0] --batch x", r"several\[0\] is a part of several", "Write net = several[0] in a cell"),
        ("net.inner --batch x", "net.inner is a part of net", "then %vram estimate net --batch x"),
        ("spread --batch x", "spread is a DataParallel", "Write inner = spread.module"),
    ],
)  # fmt: skip
def test_a_mistake_is_a_sentence_and_says_what_to_write(told, line, what, next_step):
    net = torch.nn.Linear(4, 4)
    variables = {
        "net": net, "x": torch.rand(2, 4), "by_itself": by_itself, "several": [net], "open": open, "exit": exit,
        "others": torch.optim.AdamW(torch.nn.Linear(4, 4).parameters()), "words": torch.nn.Embedding(5, 5),
        "spread": torch.nn.DataParallel(net),
    }  # fmt: skip
    with pytest.raises(ColabMagicsError, match=what) as refused:
        told(line, **variables)
    assert next_step in "\n".join(refused.value.next_steps)


def test_cards_have_their_article_and_a_cpu_no_cuda(told):
    assert "on an A100" in _text(told("net --batch x --gpu A100-80", **_linear()))
    assert "CUDA" not in _text(told("net --batch x --gpu cpu", **_linear()))
