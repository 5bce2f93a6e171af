"""Sizes of real models, as `describe` reads them from their configs."""

from __future__ import annotations

from colab_magics.plan import ModelShape

GPT2 = ModelShape(
    "GPT2LMHeadModel", 124_439_808, 84_934_656, 768 * 3072, 2_359_296, 12, 768, 3072, 768, 768, 50257, 1024
)
LLAMA_1B = ModelShape(
    architecture="LlamaForCausalLM",
    parameters=1_235_814_400,
    linear_parameters=973_078_528,
    largest_linear=2048 * 8192,
    lora_parameters=11_272_192,
    layers=16,
    hidden=2048,
    intermediate=8192,
    query=2048,
    key_value=512,
    vocabulary=128_256,
    positions=131_072,
)
QWEN3_4B = ModelShape(
    architecture="Qwen3ForCausalLM",
    parameters=4_022_468_096,
    linear_parameters=3_633_315_840,
    largest_linear=2560 * 9728,
    lora_parameters=33_030_144,
    layers=36,
    hidden=2560,
    intermediate=9728,
    query=4096,
    key_value=1024,
    vocabulary=151_936,
    positions=40_960,
    qk_norm=True,
)
QWEN3_14B = ModelShape(
    architecture="Qwen3ForCausalLM",
    parameters=14_768_307_200,
    linear_parameters=13_212_057_600,
    largest_linear=5120 * 17408,
    lora_parameters=64_225_280,
    layers=40,
    hidden=5120,
    intermediate=17408,
    query=5120,
    key_value=1024,
    vocabulary=151_936,
    positions=40_960,
    qk_norm=True,
)
