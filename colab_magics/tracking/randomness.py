"""What draws random numbers in this process: python's, numpy's and torch's generators, as far as they are imported."""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping
from typing import Any


def drawn() -> dict[str, Any]:
    """Where every generator stands: values that `values.Encoder` takes."""
    found: dict[str, Any] = {"python": random.getstate()}
    numpy: Any = sys.modules.get("numpy.random")
    if numpy is not None:
        found["numpy"] = numpy.get_state(legacy=False)
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        found["torch"] = torch.get_rng_state()
        if torch.cuda.is_initialized():  # to ask before would make a context
            found["cuda"] = torch.cuda.get_rng_state_all()
        if torch.backends.mps.is_available():
            found["mps"] = torch.mps.get_rng_state()
    return found


def draw_on(found: Mapping[str, Any]) -> list[str]:
    """Put the generators where they stood; what could not be put back, one sentence each."""
    lost = []
    random.setstate(found["python"])
    numpy, torch = (sys.modules.get(name) for name in ("numpy.random", "torch"))
    if "numpy" in found and numpy is not None:
        numpy.set_state(found["numpy"])
    if "torch" in found and torch is not None:
        torch.set_rng_state(found["torch"])
        lost += _on_gpus(torch, found.get("cuda"))
        if "mps" in found and torch.backends.mps.is_available():
            torch.mps.set_rng_state(found["mps"])
    missing = [name for name, module in (("numpy", numpy), ("torch", torch)) if name in found and module is None]
    return lost + [f"{name} is not imported: its random numbers begin anew" for name in missing]


def _on_gpus(torch: Any, states: list[Any] | None) -> list[str]:
    if states is None:
        used = torch.cuda.is_initialized()
        return ["it was computed without a GPU: random numbers fall otherwise"] if used else []
    if not torch.cuda.is_available():
        return ["the GPU is gone: random numbers fall otherwise"]
    there = torch.cuda.device_count()
    for index, state in enumerate(states[:there]):
        torch.cuda.set_rng_state(state, index)
    return [f"{len(states)} GPUs drew random numbers, and {there} are here"] if there != len(states) else []


def own_state(generator: Any) -> Any:
    """The state of a generator that a person has made himself; None where it is none."""
    if type(generator) is random.Random:
        return generator.getstate()
    numpy: Any = sys.modules.get("numpy.random")
    if numpy is not None and isinstance(generator, numpy.Generator):
        return {"bits": type(generator.bit_generator).__name__, **generator.bit_generator.state}
    if numpy is not None and isinstance(generator, numpy.RandomState):
        return generator.get_state(legacy=False)
    torch: Any = sys.modules.get("torch")
    if torch is not None and isinstance(generator, torch.Generator):
        return generator.get_state()
    return None


def put_own(generator: Any, state: Any) -> None:
    """Put such a generator where it stood."""
    numpy: Any = sys.modules.get("numpy.random")
    if type(generator) is random.Random:
        generator.setstate(state)
    elif numpy is not None and isinstance(generator, numpy.Generator):
        generator.bit_generator.state = {key: one for key, one in state.items() if key != "bits"}
    else:
        generator.set_state(state)
