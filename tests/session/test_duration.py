"""The duration before the first step, against what others have logged on a T4."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from shapes import GPT2, LLAMA_1B, QWEN3_4B, QWEN3_14B

from colab_magics.plan import Choice, ModelShape, Plan
from colab_magics.session.duration import (
    MEASURED,
    MODELLED,
    Duration,
    Work,
    from_measured,
    operations,
    prior,
    work_of,
)
from colab_magics.session.table import load_table

pytestmark = [pytest.mark.face, pytest.mark.colab]

T4 = load_table().accelerators["T4"]

LLAMA_8B = replace(
    LLAMA_1B, parameters=8_030_261_248, linear_parameters=6_979_321_856, layers=32, hidden=4096, query=4096
)  # fmt: skip
QWEN_7B = replace(
    QWEN3_14B, parameters=7_615_616_512, linear_parameters=6_525_288_448, layers=28, hidden=3584, query=3584,
    vocabulary=152_064,
)  # fmt: skip
LLAMA_3B = replace(
    LLAMA_1B, parameters=3_212_749_824, linear_parameters=2_818_572_288, layers=28, hidden=3072, query=3072
)  # fmt: skip
QWEN_06B = replace(
    QWEN3_4B, parameters=596_049_920, linear_parameters=440_401_920, layers=28, hidden=1024, query=2048
)  # fmt: skip

# Rows of Alpaca in its prompt have 243 tokens on average and, two at a time, are padded to 330 (measured on 1,000 rows
# with the phi3 tokenizer); conversations of FineTome about 550 (assumed).
ALPACA, FINETOME = 330, 550


def _plan(method: str = "qlora", precision: str = "fp16", *, checkpointing: bool = True) -> Plan:
    chosen = {"method": method, "precision": precision, "gradient_checkpointing": checkpointing}
    return Plan({key: Choice(value, "") for key, value in chosen.items()})


@pytest.mark.parametrize(
    ("shape", "plan", "tokens", "length", "logged"),
    [
        pytest.param(LLAMA_8B, _plan(), 480 * ALPACA, ALPACA, 462.7, id="Unsloth Llama-3.1-8B, Alpaca"),
        pytest.param(QWEN_7B, _plan(), 480 * ALPACA, ALPACA, 462.4, id="Unsloth Qwen2.5-7B, Alpaca"),
        pytest.param(LLAMA_3B, _plan(), 480 * FINETOME, FINETOME, 446.5, id="Unsloth Llama-3.2-3B, FineTome"),
        pytest.param(QWEN3_14B, _plan(), 480 * ALPACA, ALPACA, 822.6, id="Unsloth Qwen3-14B, Alpaca"),
        pytest.param(QWEN3_14B, _plan(), 240 * 1400, 1400, 2476.6, id="Unsloth Qwen3-14B, reasoning up to 2048"),
        pytest.param(QWEN_06B, _plan("full"), 800 * 1024, 1024, 695.0, id="Unsloth Qwen3-0.6B, full, 1024"),
        pytest.param(QWEN3_14B, _plan(), 25 * 4096, 4096, 565.0, id="axolotl Qwen3-14B, packed 4096"),
        pytest.param(LLAMA_8B, _plan(), 500 * 512, 512, 720.0, id="mccormickml 8B, 500 steps of 512"),
        pytest.param(QWEN3_14B, _plan(precision="bf16"), 120 * 1024, 1024, 4249.9, id="TRL Qwen3-14B, emulated bf16"),
    ],
)
def test_what_others_logged_on_a_t4_lies_in_the_band(
    shape: ModelShape, plan: Plan, tokens: int, length: int, logged: float
) -> None:
    made = prior(shape, plan, T4, Work(tokens, length=length))
    assert made is not None
    print(f"{logged:.0f} s logged, {made.low:.0f} to {made.high:.0f} s estimated")
    assert made.low <= logged <= made.high, f"{logged / made.mid:.2f} of the estimate"
    assert made.high / made.mid == made.mid / made.low == pytest.approx(MODELLED)


@pytest.mark.parametrize(("device", "logged"), [("L4", 330.0), ("A100-40", 120.0)])
def test_and_what_they_logged_on_other_cards_of_colab(device: str, logged: float) -> None:
    made = prior(LLAMA_8B, _plan(precision="bf16"), load_table().accelerators[device], Work(500 * 512, length=512))
    assert made is not None
    assert made.low <= logged <= made.high, f"{logged / made.mid:.2f} of the estimate"


def test_a_token_of_lora_costs_four_operations_a_weight_of_full_training_six_and_checkpointing_a_forward_more() -> None:
    weights = QWEN3_4B.linear_parameters + QWEN3_4B.vocabulary * QWEN3_4B.hidden
    one = Work(1)
    for method, checkpointing, times in (("lora", False, 4), ("lora", True, 6), ("full", False, 6), ("full", True, 8)):
        plan = _plan(method, checkpointing=checkpointing)
        assert operations(QWEN3_4B, plan, one) == times * weights
    assert operations(QWEN3_4B, _plan(), Work(0, scored=1)) == 2 * weights


def test_the_research_s_arithmetic_of_a_token_at_2048_is_ours() -> None:
    for shape, forward in ((QWEN3_4B, 8.65e9), (LLAMA_1B, 2.61e9), (GPT2, 0.28e9)):
        assert operations(shape, _plan(), Work(0, scored=1, length=2048)) == pytest.approx(forward, rel=0.06)


def test_attention_counts_for_long_documents() -> None:
    short, long = (operations(QWEN3_4B, _plan(), Work(1e6, length=length)) for length in (128, 8192))
    assert 1.2 < long / short < 2


@pytest.mark.parametrize(("every", "evaluations"), [(40, 3), (50, 2), (None, 1)])
def test_the_work_of_a_run_has_its_evaluations_in_it(every: int | None, evaluations: int) -> None:
    chosen = {"total_steps": 100, "eval_every": every, "effective_batch": 4, "accumulation": 2}
    plan = Plan({key: Choice(value, "") for key, value in chosen.items()})
    made = work_of(plan, np.array([100, 300], np.int32), documents=40, tokens=8000, eval_tokens=500)
    assert made == Work(tokens=80_000, scored=500 * evaluations, length=250, micro_batches=200)


def test_evaluations_count() -> None:
    bare, more = (prior(GPT2, _plan("full"), T4, Work(1e6, scored)) for scored in (0, 3e6))
    assert bare is not None
    assert more is not None
    assert more.mid == pytest.approx(bare.mid * (1 + 3 * 2 / 8))


def test_nothing_is_said_of_an_unknown_device_or_precision() -> None:
    assert prior(GPT2, _plan(), None, Work(1e6)) is None
    assert prior(GPT2, _plan(precision="fp16"), replace(T4, share={"fp32": 0.5}), Work(1e6)) is None


def test_what_was_timed_on_this_device_counts_and_is_surer() -> None:
    made = from_measured(GPT2, _plan("full"), Work(1_024_000, length=200), 2.0, 1024)
    assert made == Duration(pytest.approx(2000 / MEASURED), pytest.approx(2000), pytest.approx(2000 * MEASURED))
    assert from_measured(GPT2, _plan("full"), Work(1e6), 0.0, 1024) is None
    assert Duration.from_dict(Duration(1, 2, 4).to_dict()) == Duration(1, 2, 4)
