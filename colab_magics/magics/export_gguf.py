"""A GGUF file, by llama.cpp's own converter: it knows each architecture, and is looked for where people have it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from colab_magics.errors import ColabMagicsError, redact

_SCRIPT = "convert_hf_to_gguf.py"
_VARIABLE = "LLAMA_CPP"


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
        The converter failed: says its last line.
    """
    command = [sys.executable, os.fspath(script), os.fspath(model), "--outfile", os.fspath(target), "--outtype", kind]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode == 0 and target.is_file():
        return
    said = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    raise ColabMagicsError(
        "llama.cpp's converter has failed.",
        redact(said[-1]) if said else f"It ended with code {done.returncode}.",
        "Update llama.cpp (git pull) and its gguf package; it may not know the architecture yet.",
        "Or export with --merge, and convert elsewhere.",
    )
