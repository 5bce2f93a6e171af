"""Memory stays flat: a process reads many rows, and its peak is that of a process that reads few."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

# The peak of a fresh process, its imports taken off: the first thousand rows are prepared before the count begins.
_CODE = """
import resource, sys
from datetime import datetime
from pathlib import Path
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast
from colab_magics.data import Source, prepare
from colab_magics.recipe import Recipe

_, file, tokenizer_file, limit, folder = sys.argv
tokenizer = PreTrainedTokenizerFast(tokenizer_file=tokenizer_file, eos_token="<|endoftext|>")
recipe = Recipe(model="demo", data=file)
told = lambda *_: None


def peak(limit):
    source = Source("path", Path(file).name, file)
    made = prepare(source, tokenizer, recipe, split="train", cache=Path(folder), now=datetime(2025, 1, 1),
                   progress=told, limit=limit)
    return made.rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


before = peak(2000)[1]
rows, after = peak(int(limit) or None)
print(rows, after - before)
"""


def grown(file: Path, tokenizer: Path, limit: int, folder: Path) -> tuple[int, float]:
    """Rows read, and MiB that the peak grew beyond that of the first 2,000 rows."""
    arguments = [sys.executable, "-c", _CODE, str(file), str(tokenizer), str(limit), str(folder)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    rows, mib = done.stdout.split()
    return int(rows), float(mib)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_many_rows_take_no_more_memory_than_few(tmp_path: Path, shared_data: Path, name: str) -> None:
    tokenizer = shared_data / "tokenizers" / "gpt2" / "tokenizer.json"
    path = tmp_path / name
    filler = "many words follow one another " * 12
    with path.open("w", encoding="utf-8") as file:
        array = name.endswith(".json")
        file.write("[" if array else "")
        for number in range(15_000):
            row = {"question": f"What is {number}?", "answer": f"{number} {filler}"[:300]}
            file.write(("," if array and number else "") + json.dumps(row) + ("" if array else "\n"))
        file.write("]" if array else "")
    rows, mib = grown(path, tokenizer, 0, tmp_path / "cache")
    assert rows == 15_000
    # The rows as Python objects would be 20 MB, their tokens and marks 6 MB.
    assert mib < 8, f"{mib:.0f} MiB"
