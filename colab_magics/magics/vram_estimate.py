"""`%vram estimate`: what a training takes, before it is started; of a run, beside what was measured."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from colab_magics.errors import ColabMagicsError
from colab_magics.hub import ConfigFile, check_quantisation, read_config
from colab_magics.magics.vram_devices import OTHERS, card, devices, unsupported
from colab_magics.magics.vram_estimate_line import HELP, Asked, read
from colab_magics.magics.vram_estimate_show import Estimated
from colab_magics.memory.architecture import UnknownArchitecture, positions_of, shape_of, usual_verdict
from colab_magics.memory.correction import corrected
from colab_magics.memory.estimate import Estimate
from colab_magics.memory.estimate import estimate as parts_of
from colab_magics.memory.inference import generating, weights_for
from colab_magics.memory.measured import Measured, measured
from colab_magics.memory.prediction import Prediction, fixed_lengths, peers, predict
from colab_magics.memory.traced import NotTraced, Traces, traces
from colab_magics.plan import Device, ModelShape, Verdict, from_log
from colab_magics.recipe import Recipe, parse
from colab_magics.run import Run, cache_folder, find_run
from colab_magics.session.offers import drawn
from colab_magics.session.settings import user_file
from colab_magics.session.table import Table, load_table

_NO_DATA = "no data"  # in a recipe that names none
_OF_GENERATING = frozenset(
    "model hub_revision revision method load_in_4bit precision bf16 fp16 trust_remote_code".split()
)
_USUAL_LENGTH = 2048  # tokens, where neither data nor a max_length says anything


@dataclass(frozen=True)
class _Subject:
    """What is estimated: a recipe, its model's config, the lengths of its documents, and what a run has told."""

    recipe: Recipe
    lengths: npt.NDArray[np.int32]
    model: ConfigFile | None = None
    shape: ModelShape | None = None
    verdict: Verdict | None = None
    on: Device | None = None
    seen: Measured | None = None
    title: str = ""
    note: str = ""


def estimate(
    words: Sequence[str],
    root: Path,
    body: str | None = None,
    namespace: MutableMapping[str, Any] | None = None,
    say: Callable[[str], None] = print,
) -> Any:
    """What `%vram estimate WORDS` shows: an object with figures in bytes, and a `_repr_mimebundle_`.

    Parameters
    ----------
    words : what follows `estimate` on the line
    root : where runs are kept
    body : the recipe of `%%vram estimate`
    namespace : the notebook's variables

    Raises
    ------
    ColabMagicsError
        For whatever cannot be read, found or used; nothing was downloaded but a config.
    """
    asked = read(words)
    if asked.help:
        return Text(HELP)
    table = load_table(user_file())
    module = _module(asked, root, namespace)
    if module is not None:
        from colab_magics.magics.vram_estimate_module import estimate_module

        return estimate_module(asked, module, namespace or {}, table)
    _check_together(asked)
    subject = _subject(asked, root, body, namespace, say)
    targets = devices(asked.gpus, table) or [_here(subject.on, table)]
    made = _predictions(asked, subject, targets)
    if asked.inference:
        return replace(_inference(asked, subject, made, targets), unsupported=unsupported(targets, table))
    others = [] if asked.gpus else [card(key, table) for key in OTHERS if card(key, table).name != targets[0].name]
    elsewhere = tuple(_elsewhere(made.shape, made.verdict, subject, device) for device in others)
    title = subject.title or subject.recipe.model
    return replace(
        made,
        title=title,
        others=tuple(one for one in elsewhere if one is not None),
        note=subject.note,
        unsupported=unsupported(targets, table),
        lengths=None if "model" in asked.recipe and body is None else subject.lengths,
    )


@dataclass(frozen=True)
class Text:
    """Text that is shown as it is."""

    text: str

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return {"text/plain": self.text}

    def __repr__(self) -> str:
        return self.text


def _module(asked: Asked, root: Path, namespace: MutableMapping[str, Any] | None) -> Any:
    """The torch module that the line names, if it names one: then torch is in this process already.

    A run of the same name is the one that is meant, unless there is an input.
    """
    torch = sys.modules.get("torch")
    held, name = namespace or {}, asked.name or ""
    found = held.get(name)
    if torch is None or (asked.batch is None and (_root(asked, root) / name).is_dir()):
        return None
    whole = re.match(r"\w+(?=[.\[])", name)
    if whole is not None and whole[0] in held and not _is_model(name):
        raise ColabMagicsError(
            f"{name} is a part of {whole[0]}.",
            "%vram estimate takes a module by the name of a variable.",
            f"Write net = {name} in a cell, then %vram estimate net --batch {asked.batch or 'x'}.",
        )
    return found if isinstance(found, torch.nn.Module) else None


def _check_together(asked: Asked) -> None:
    """An option that would be of no account here is a slip, and is not passed over."""
    if asked.optimizer is not None or asked.keep:
        raise ColabMagicsError(
            f"--{'keep' if asked.keep else 'optimizer'} goes with a module of this notebook.",
            f"{asked.name} is no variable that holds one." if asked.name else "There is none on the line.",
            "Write %vram estimate NAME --batch INPUT; of a recipe, the optimizer is --optim.",
        )
    if asked.inference and asked.compare:
        raise ColabMagicsError(
            "--compare goes with training.",
            "What others' trainers take is said beside ours; generating is not trained.",
            "Leave out --compare or --inference.",
        )
    useless = [key for key in asked.recipe if key not in _OF_GENERATING] if asked.inference else []
    if useless:
        raise ColabMagicsError(
            f"--{useless[0].replace('_', '-')} is of no account with --inference.",
            "Generating takes the model's weights and a cache that grows with the context.",
            "Leave it out; --context 8192 asks for a length, --batch 4 for sequences at once.",
        )
    if asked.context is not None and not asked.inference:
        raise ColabMagicsError(
            "--context goes with --inference.",
            "Training keeps no keys and values of earlier tokens.",
            "Write --inference too, or --max-length for the documents of a training.",
        )


def _subject(
    asked: Asked,
    root: Path,
    body: str | None,
    namespace: MutableMapping[str, Any] | None,
    say: Callable[[str], None],
) -> _Subject:
    if body is not None:
        return _of_body(asked, body, root, namespace or {}, say)
    if asked.name is not None and "model" not in asked.recipe and _is_model(asked.name):
        asked = replace(asked, name=None, recipe={**asked.recipe, "model": asked.name})
    options = _options(asked)
    if "model" in options:
        if asked.name is not None:
            raise ColabMagicsError(
                f"There are {asked.name} and --model {options['model']}.",
                "One is a run, the other a model.",
                "Write one of them.",
            )
        return _of_model(options, namespace)
    return _of_run(asked, root)


def _is_model(name: str) -> bool:
    """Whether a name can only be a model's: an id has a slash, which no run's name has."""
    return "/" in name or (Path(name) / "config.json").is_file()


def _options(asked: Asked) -> dict[str, str | bool]:
    options = dict(asked.recipe)
    if asked.batch is not None:
        options["per_device_train_batch_size"] = asked.batch
        options.setdefault("effective_batch_size", asked.batch)
    return options


def _of_model(options: dict[str, str | bool], namespace: MutableMapping[str, Any] | None, body: str = "") -> _Subject:
    """A model alone: its documents are as long as they may be."""
    recipe = parse(body, options, namespace=namespace, data=_NO_DATA).recipe
    model = read_config(recipe.model, recipe.hub_revision)
    positions = positions_of(model.config)
    note = ""
    if recipe.max_length == "auto":
        length = min(_USUAL_LENGTH, positions or _USUAL_LENGTH)
        recipe = replace(recipe, max_length=length)
        note = f"Documents of {length:,} tokens are assumed: --max-length changes that."
    assert isinstance(recipe.max_length, int)
    return _Subject(recipe, fixed_lengths(recipe.max_length), model, note=note)


def _of_body(
    asked: Asked, body: str, root: Path, namespace: MutableMapping[str, Any], say: Callable[[str], None]
) -> _Subject:
    """A recipe with its data, through the same preflight as a run's."""
    if parse(body, _options(asked), namespace=namespace, data=_NO_DATA).recipe.data == _NO_DATA:
        return _of_model(_options(asked), namespace, body)
    from colab_magics.magics.cell import Cell
    from colab_magics.magics.display import Nowhere
    from colab_magics.magics.options import Options
    from colab_magics.magics.reports import look

    cell = Cell(Options(command="recipe", recipe=_options(asked)), body, namespace, root, Nowhere(), said=say)
    recipe, events = look(cell, "plan")
    return _of_events(recipe, events, recipe.model)


def _of_run(asked: Asked, root: Path) -> _Subject:
    if asked.recipe or asked.batch:
        given = next(iter(asked.recipe), "batch").replace("_", "-")
        raise ColabMagicsError(
            f"--{given} goes with a model, or with a recipe below %%vram estimate.",
            "A run has its recipe already.",
            "Write --model ID too, or leave it out.",
        )
    run: Run = find_run(asked.name, _root(asked, root))
    return _of_events(run.recipe, run.events(), f"{run.name}: {run.recipe.model}")


def _root(asked: Asked, root: Path) -> Path:
    from colab_magics.magics.session_plan import root_of

    return root_of(asked.root, root)


def _of_events(recipe: Recipe, events: Sequence[Any], title: str) -> _Subject:
    told = [event for event in events if event["kind"] == "plan" and event.get("shape")]
    if not told:
        raise ColabMagicsError(
            f"{title.partition(':')[0]} has no plan.",
            "It ended before its plan, or it is of an older version.",
            "Write %%vram estimate with its recipe below it.",
        )
    event = told[-1]
    try:
        model = read_config(recipe.model, recipe.hub_revision)
    except ColabMagicsError:
        model = None  # it was another machine's, or is gone: the formula needs only the sizes
    on = event.get("on")
    return _Subject(
        recipe,
        drawn([float(one) for one in event["lengths"]], int(event["documents"])),
        model,
        from_log(ModelShape, event["shape"]),
        from_log(Verdict, event["verdict"]),
        from_log(Device, on) if on else None,
        measured(events),
        title,
    )


def _here(on: Device | None, table: Table) -> Device:
    """The card that a run was planned on, or that is here; a T4 where there is none."""
    if on is not None:
        return on
    from colab_magics.memory.devices import this_device

    here = this_device()
    return here if here.kind == "cuda" else card("T4", table)


def _predictions(asked: Asked, subject: _Subject, targets: Sequence[Device]) -> Estimated:
    """For each device: traced if that can be had and was not declined, and by formula."""
    shape, verdict, unknown = subject.shape, subject.verdict, None
    if shape is None:
        assert subject.model is not None
        if not asked.inference:
            check_quantisation(subject.recipe.model, subject.model.config.get("quantization_config"))
        try:
            shape = shape_of(
                subject.model.config,
                r=subject.recipe.r,
                target_modules=subject.recipe.target_modules,
                full=subject.recipe.method == "full",
                modules_to_save=subject.recipe.modules_to_save,
                dora=subject.recipe.use_dora,
                weight_bytes=subject.model.weight_bytes or None,
            )
            verdict = usual_verdict(shape)
        except UnknownArchitecture as error:
            unknown = error
    found, why = _trace(asked, subject, targets, known=shape is not None)
    if found is not None:
        shape, verdict = subject.shape or found.shape, found.verdict
    if shape is None or verdict is None:
        assert unknown is not None
        raise ColabMagicsError(unknown.what, f"It could not be traced: {why}.", *unknown.next_steps)
    formula = tuple(predict(shape, verdict, subject.recipe, device, subject.lengths) for device in targets)
    best = formula if found is None else found.predictions
    seen = subject.seen
    # on another card the plan is another, and what was measured is no measure of it
    if seen is not None and not asked.gpus:
        best = tuple(corrected(one, shape, seen) for one in best)
    beside: tuple[Mapping[str, Estimate], ...] = ()
    if asked.compare:
        beside = found.peers if found is not None else tuple(_peers(one, shape) for one in formula)
    return Estimated(subject.recipe, shape, verdict, best, formula, beside, seen, why if not asked.quick else "")


def _trace(asked: Asked, subject: _Subject, targets: Sequence[Device], *, known: bool) -> tuple[Traces | None, str]:
    if asked.quick:
        return None, "--quick was given"
    if asked.inference and known:
        return None, "generating needs the model's sizes alone"
    if subject.recipe.compares and known:
        return None, "the traces are of this package's loop, and TRL compares in its own"
    if subject.model is None:
        return None, "the model's config is not here"
    try:
        made = traces(
            subject.model, subject.recipe, targets, subject.lengths, compare=asked.compare, cache=cache_folder()
        )
    except NotTraced as error:
        return None, str(error)
    return made, ""


def _peers(made: Prediction, shape: ModelShape) -> dict[str, Estimate]:
    return {name: parts_of(shape, setup) for name, setup in peers(made.setup, shape, made.device).items()}


def _elsewhere(shape: ModelShape, verdict: Verdict, subject: _Subject, device: Device) -> Prediction | None:
    """On another card; None where the recipe asks for what it cannot do."""
    try:
        return predict(shape, verdict, subject.recipe, device, subject.lengths)
    except ColabMagicsError:
        return None


def _inference(asked: Asked, subject: _Subject, made: Estimated, targets: Sequence[Device]) -> Any:
    from colab_magics.magics.vram_estimate_show import Inference

    shape = made.shape
    if asked.context is not None and shape.positions is not None and asked.context > shape.positions:
        raise ColabMagicsError(
            f"--context {asked.context} is longer than the model's {shape.positions} positions.",
            "It has learnt nothing about tokens beyond them.",
            f"Write --context {shape.positions} or less.",
        )
    method = made.predictions[0].plan["method"]
    given = subject.recipe.per_device_train_batch_size
    batch = given if asked.batch is not None and isinstance(given, int) else 1
    rows = tuple(
        row
        for device in targets
        for row in generating(shape, weights_for(shape, method, device), device, batch=batch, context=asked.context)
    )
    return Inference(subject.recipe.model, method, shape, rows)
