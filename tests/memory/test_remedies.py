"""Remedies: only what changes something in this run, each with the bytes it saves, the most helpful first."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest
from pretended_allocator import GIB, T4, out_of_memory
from shapes import GPT2, LLAMA_1B, QWEN3_4B

from colab_magics.memory.culprit import Cause, name
from colab_magics.memory.diagnosis import Diagnosis, diagnose
from colab_magics.memory.estimate import estimate
from colab_magics.memory.facts import Facts, Sizes
from colab_magics.memory.messages import Told, read
from colab_magics.memory.remedies import short_by
from colab_magics.plan import Setup, cap_for
from colab_magics.recipe import Recipe

MIB = 2**20
USUAL = (*range(0, 1000, 10), 4096)
RUN = Setup("lora", "fp16", "adamw_torch_fused", 8, 1024, False, 441)


def a_run(tensor: int = GIB, setup: Setup = RUN, message: dict[str, Any] | None = None, **known: Any) -> Facts:
    """A run on a T4 that lacks a tensor of so many bytes."""
    text = out_of_memory(tensor, **(message or {}))
    told = read(text)
    assert told is not None
    given = {
        "run": "tune",
        "phase": "forward",
        "step": 7,
        "shape": LLAMA_1B,
        "sizes": Sizes.of_shape(LLAMA_1B, setup.method),
        "setup": setup,
        "tokens": (setup.length,) * setup.documents,
        "in_memory": setup.length * setup.documents,
        "effective": 16,
        "rank": 16,
        "usual": USUAL,
        "documents_in_all": 5000,
    }
    return Facts(text, told, **(given | known))


def lines(found: Diagnosis) -> list[str]:
    return [remedy.line for remedy in found.remedies]


def test_they_are_recipe_lines_ordered_by_the_bytes_that_each_saves() -> None:
    found = diagnose(a_run())
    saved = [remedy.saves for remedy in found.remedies]
    assert None not in saved
    assert saved == sorted(saved, key=lambda one: -(one or 0))
    assert {"gradient_checkpointing: true", "method: qlora"} <= set(lines(found))
    for line in lines(found):
        key, _, value = line.partition(": ")
        Recipe(
            model="m",
            data="d",
            **{key: {"true": True, "false": False}.get(value, int(value) if value.isdigit() else value)},
        )


def test_each_saving_is_the_difference_of_two_estimates() -> None:
    facts = a_run()
    (checkpointing,) = [one for one in diagnose(facts).remedies if one.line == "gradient_checkpointing: true"]
    changed = replace(RUN, gradient_checkpointing=True)
    assert checkpointing.saves == estimate(LLAMA_1B, RUN).peak - estimate(LLAMA_1B, changed).peak


def test_whether_one_alone_is_enough_is_measured_against_what_was_missing() -> None:
    facts = a_run()
    missing = short_by(facts, name(facts))
    assert missing is not None
    assert missing >= GIB // 2  # half of the tensor's segment was free
    for remedy in diagnose(facts).remedies:
        assert remedy.enough == ((remedy.saves or 0) >= missing)


def test_what_is_missing_is_also_what_the_estimate_still_wants_beyond_the_card() -> None:
    huge = replace(RUN, documents=16, length=4096)
    facts = a_run(100 * MIB, huge)
    beyond = estimate(LLAMA_1B, huge).peak - facts.told.total
    assert short_by(facts, name(facts)) == beyond > GIB


def test_the_micro_batch_is_the_largest_that_is_enough_and_the_effective_batch_can_be_split_into() -> None:
    found = diagnose(a_run(200 * MIB))
    (line,) = [one for one in found.remedies if one.line.startswith("per_device_train_batch_size")]
    assert line.line == "per_device_train_batch_size: 4"  # not 7, 6 or 5: 16 is no multiple of them
    assert line.note == "the effective batch stays 16, with gradient_accumulation_steps: 4"
    assert line.enough


def test_what_is_so_already_is_not_advised() -> None:
    least = Setup("qlora", "fp16", "paged_adamw_8bit", 1, 256, True, 64)
    found = diagnose(a_run(setup=least, rank=8))
    for line in ("per_device", "gradient_checkpointing", "method", "optim", "r:", "packing"):
        assert not any(one.startswith(line) for one in lines(found)), line
    assert found.remedies, "a smaller model, or a larger GPU, is always left"


def test_a_shorter_length_says_how_many_documents_it_cuts() -> None:
    long = replace(RUN, documents=1, length=4096, method="qlora")
    found = diagnose(a_run(setup=long))
    (line,) = [one for one in found.remedies if one.line.startswith("max_length")]
    length = int(line.line.partition(": ")[2])
    assert length % 64 == 0
    assert 1000 < length < 4096
    assert line.note == "cuts about 50 of 5,000 documents"


def test_full_fine_tuning_is_offered_adapters_and_small_states() -> None:
    found = diagnose(a_run(setup=replace(RUN, method="full")))
    assert {"method: lora", "method: qlora", "optim: paged_adamw_8bit"} <= set(lines(found))
    assert "r: 8" not in lines(found)


def test_smaller_adapters_are_offered_where_they_save_something() -> None:
    big = diagnose(
        a_run(shape=QWEN3_4B, sizes=Sizes.of_shape(QWEN3_4B, "qlora"), rank=64, setup=replace(RUN, method="qlora"))
    )
    (line,) = [one for one in big.remedies if one.line == "r: 8"]
    assert line.note == "now 64"


def test_the_mask_of_packed_documents_is_undone_by_padding() -> None:
    packed = replace(RUN, packed=True, documents=16, length=1024)
    found = diagnose(a_run(16_384**2, packed, packed=True))
    assert "packing: false" in lines(found)


def test_what_this_kernel_holds_is_freed_first() -> None:
    found = diagnose(a_run(setup=replace(RUN, documents=2), kernel=6 * GIB))
    first = found.remedies[0]
    assert (first.line, first.saves, first.enough) == ("%vram free", 6 * GIB, True)
    assert "this notebook's own kernel holds 6.0 GiB" in found.sentence


def test_another_process_is_named_with_its_number() -> None:
    found = diagnose(a_run(message={"others": {4711: 5 * GIB}}))
    assert found.remedies[0].line == "end process 4711"
    assert "process 4711 holds 5.0 GiB" in found.sentence


def test_pieces_are_joined_by_expandable_segments() -> None:
    found = diagnose(a_run(message={"unallocated": 3 * GIB}))
    assert lines(found) == ["%env PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True"]
    assert found.remedies[0].note == "before the cell that trains"
    cell = diagnose(replace(a_run(message={"unallocated": 3 * GIB}), run=""))
    assert "restart the kernel" in cell.remedies[0].note


def test_a_limit_of_the_recipe_is_named_as_the_recipe_writes_it() -> None:
    text = {"limit": 4 * GIB, "allocated": 4 * GIB - MIB, "free": 9 * GIB}
    found = diagnose(a_run(message=text, max_memory="4 GiB"))
    assert found.remedies[0].line.startswith("max_memory: (now 4 GiB")


def test_on_a_host_nothing_is_said_of_a_gpu() -> None:
    told = Told("cpu", backend="CPU", requested=9 * GIB)
    facts = replace(a_run(), told=told, host=(12 * GIB, GIB), setup=replace(RUN, precision="fp32"))
    found = diagnose(facts)
    assert "GPU" not in found.sentence.replace("the GPU's", "")
    assert "1.0 GiB of 12.0 GiB were free" in found.sentence
    assert "gradient_checkpointing: true" in lines(found)


def test_a_small_run_on_a_capped_cpu_is_told_what_its_own_error_names_and_a_cap_that_is_enough() -> None:
    setup = Setup("full", "fp32", "adamw_torch_fused", 1, 64, True, 64)
    tiny = replace(GPT2, parameters=1_820_000, linear_parameters=1_400_000, largest_linear=2**18, layers=2, hidden=128,
                   intermediate=512, query=128, key_value=128, vocabulary=2048, lora_parameters=80_000)  # fmt: skip
    told = Told("cpu", backend="CPU", requested=MIB, limit=24 * MIB)
    facts = a_run(shape=tiny, setup=setup, phase="optimizer", max_memory="24 MiB", host=(24 * GIB, 20 * GIB))
    found = diagnose(replace(facts, told=told))
    assert found.cause == Cause.LIMIT
    first, *others = found.remedies
    assert first.line == f"max_memory: {cap_for(estimate(tiny, setup).peak)}"
    assert {"method: lora", "method: qlora", "optim: adamw_8bit"} <= {one.line for one in others}
    assert not any("GPU" in f"{one.line} {one.note}" for one in found.remedies)


def test_where_the_estimate_had_room_under_the_cap_nothing_is_said_to_be_enough() -> None:
    told = Told("cpu", backend="CPU", requested=MIB, limit=100 * GIB)
    found = diagnose(replace(a_run(max_memory="100 GiB"), told=told))
    assert found.remedies[0].line.startswith("max_memory: ")
    assert all(one.enough is None for one in found.remedies)
    assert "per_device_train_batch_size: 4" in lines(found), "the next smaller one"


def test_an_array_larger_than_the_machine_is_no_fault_of_other_notebooks() -> None:
    told = Told("host", backend="CPU", requested=9 * GIB)
    assert "end other notebooks" in lines(diagnose(Facts("", told, host=(12 * GIB, 3 * GIB))))
    assert "end other notebooks" not in lines(diagnose(Facts("", told, host=(8 * GIB, 3 * GIB))))
    nothing_said = replace(told, requested=None)
    assert "end other notebooks" not in lines(diagnose(Facts("", nothing_said, host=(24 * GIB, 22 * GIB))))


def test_a_limit_of_the_process_is_raised_and_nobody_else_ended() -> None:
    told = Told("cpu", backend="CPU", requested=2 * GIB)
    found = diagnose(Facts("", told, host=(24 * GIB, 22 * GIB), process_limit=("RLIMIT_DATA", GIB)))
    said = "This process may have 1.0 GiB of memory (RLIMIT_DATA), and one more piece of 2.0 GiB went beyond it."
    assert found.sentence == said
    assert lines(found) == ["raise RLIMIT_DATA with resource.setrlimit"]


def test_in_a_cell_they_are_arguments_of_the_trainer() -> None:
    setup = replace(RUN, loss="logits", loss_chunk=8192, length=1024)
    found = diagnose(a_run(setup=setup, run="", arguments={"per_device_train_batch_size": 8}))
    assert "gradient_checkpointing=True" in lines(found)
    assert "%%finetune" in lines(found)
    assert not any(line.startswith("method") for line in lines(found))


@pytest.mark.parametrize("total", [T4, 24 * GIB])
def test_without_a_known_model_something_is_said_without_a_figure(total: int) -> None:
    text = out_of_memory(GIB, total=total)
    told = read(text)
    assert told is not None
    found = diagnose(Facts(text, told))
    assert [remedy.saves for remedy in found.remedies] == [None]


def test_where_states_are_made_nothing_of_the_batch_is_there_to_be_saved() -> None:
    full = replace(RUN, method="full")
    found = diagnose(a_run(128_256 * 2048 * 4, full, phase="optimizer", step=1, first=True))
    assert found.cause == Cause.OPTIMIZER
    assert {"optim: paged_adamw_8bit", "method: lora"} <= set(lines(found))
    assert not any(line.startswith(("per_device", "gradient_checkpointing", "max_length")) for line in lines(found))


def test_while_weights_are_loaded_only_smaller_weights_help() -> None:
    found = diagnose(a_run(128_256 * 2048 * 2, phase="loading", tokens=(), in_memory=0))
    assert found.cause == Cause.LOADING
    assert lines(found) == ["method: qlora"]


def test_figures_that_no_run_has_do_not_keep_it_busy() -> None:
    long = replace(RUN, documents=1, length=10**15)
    many = replace(RUN, documents=10**15)
    begin = time.perf_counter()
    assert diagnose(replace(a_run(), setup=long, tokens=(10**15,), in_memory=10**15)).remedies
    assert diagnose(replace(a_run(), setup=many, effective=10**15)).remedies
    assert time.perf_counter() - begin < 1
