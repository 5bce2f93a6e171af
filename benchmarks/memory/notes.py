"""The traces that this project's first formula was fitted to, beside today's: QLoRA, rank 16, checkpointing, a T4.

They were made with the same libraries by another tracer: one micro-batch, without gradients of earlier ones; and peft
casts an adapter's input to fp32 where CUDA's autocast is off, which a trace on a CPU takes for true. Our own trace
reckons with gradients that are kept, and answers peft as a GPU would.
"""

from __future__ import annotations

from cases import Case, gib, show_progress, table, traced

# GiB: (a kernel linear in the length, torch's own composition)
_THEN = {
    ("Llama-3.2-1B", 1, 512): (1.23, 1.26),
    ("Llama-3.2-1B", 1, 2048): (1.60, 2.82),
    ("Llama-3.2-1B", 1, 8192): (3.28, 26.1),
    ("Llama-3.2-1B", 2, 2048): (2.11, 4.55),
    ("Qwen3-4B", 1, 512): (3.11, 3.15),
    ("Qwen3-4B", 1, 2048): (3.73, 4.90),
    ("Qwen3-4B", 1, 8192): (6.54, 29.1),
    ("Qwen3-14B", 1, 2048): (11.67, 12.93),
    ("Qwen3-14B", 2, 2048): (13.36, 15.9),
}


def main() -> int:
    rows = []
    for number, ((model, documents, length), (linear, quadratic)) in enumerate(_THEN.items(), 1):
        show_progress(number, len(_THEN), f"{model}, {documents} × {length:,}")
        found = [
            traced(Case(model, "qlora", documents, length, checkpointing=True, kernel=kernel))
            for kernel in ("", "math")
        ]
        kept = found[0].parts.gradients
        rows.append(
            (model, f"{documents} × {length:,}", f"{linear:.2f}", gib(found[0].peak), gib(found[0].peak - kept),
             f"{quadratic:.2f}", gib(found[1].peak))
        )  # fmt: skip
    heads = ("GiB", "at once", "then", "now", "now, less the gradients", "math, then", "math, now")
    print(table(heads, rows))
    return 0
