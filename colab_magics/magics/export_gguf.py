"""A GGUF file, by llama.cpp's own converter: it knows each architecture, and is looked for where people have it."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from colab_magics.errors import ColabMagicsError, redact

_SCRIPT = "convert_hf_to_gguf.py"
_VARIABLE = "LLAMA_CPP"
_HEAD = struct.Struct("<4sIQQ")


def converter(environ: Mapping[str, str] = os.environ) -> Path:
    """llama.cpp's converter: in the folder that LLAMA_CPP names, else on the PATH.

    Raises
    ------
    ColabMagicsError
        It is not there; says what to install.
    """
    named = environ.get(_VARIABLE)
    if named:
        folder = Path(named).expanduser()
        script = folder if folder.name == _SCRIPT else folder / _SCRIPT
        if script.is_file():
            return script
    found = shutil.which(_SCRIPT, path=environ.get("PATH"))
    if found is not None:
        return Path(found)
    raise ColabMagicsError(
        f"{_SCRIPT} is not here.",
        f"{_VARIABLE} names {named}, where it is not." if named else "A GGUF file is made by llama.cpp's converter.",
        "!git clone --depth 1 https://github.com/ggml-org/llama.cpp && pip install -q gguf",
        f"%env {_VARIABLE}=llama.cpp",
        "Or export with --merge, and convert elsewhere.",
    )


def convert(script: Path, model: Path, target: Path, kind: str) -> None:
    """Have `model` converted into the file `target`.

    Raises
    ------
    ColabMagicsError
        The converter failed: says its last line. Or what it made is no such file.
    """
    command = [sys.executable, os.fspath(script), os.fspath(model), "--outfile", os.fspath(target), "--outtype", kind]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode == 0 and target.is_file():
        if (why := _unlike_gguf(target)) is None:
            return
        raise ColabMagicsError(
            "llama.cpp's converter made no whole GGUF file.",
            f"It said that it had ended well, but {why}.",
            "Update llama.cpp (git pull) and its gguf package.",
            "Or export with --merge, and convert elsewhere.",
        )
    said = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    raise ColabMagicsError(
        "llama.cpp's converter has failed.",
        redact(said[-1]) if said else f"It ended with code {done.returncode}.",
        "Update llama.cpp (git pull) and its gguf package; it may not know the architecture yet.",
        "Or export with --merge, and convert elsewhere.",
    )


def _unlike_gguf(path: Path) -> str | None:
    """What is wrong with the file's head; None where nothing is.

    https://github.com/ggml-org/ggml/blob/master/docs/gguf.md: the version in 4 bytes, how many tensors and settings
    there are in 8 each; then a setting takes 13 bytes at the least, and what is said of a tensor 32.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD.size)
    if len(head) < _HEAD.size:
        return f"the file has {len(head)} bytes"
    magic, version, tensors, settings = _HEAD.unpack(head)
    if magic != b"GGUF" or not 2 <= version < 100:
        return f"the file begins with {head[:8]!r}"
    if not tensors:
        return "it holds no tensor"
    if path.stat().st_size < _HEAD.size + 13 * settings + 32 * tensors:
        return f"{path.stat().st_size:,} bytes do not hold the {tensors:,} tensors that it says it has"
    return None
