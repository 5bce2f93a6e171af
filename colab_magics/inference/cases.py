"""What two models are compared on: prompts, or held-out rows with the answers that the data has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from colab_magics.data import Documents, Prepared, load_prepared, prepare
from colab_magics.data.asking import Asker, Question, last_answer
from colab_magics.data.judgements import NotJudged
from colab_magics.data.overlap import among
from colab_magics.data.report import dropped
from colab_magics.data.sources import Source, resolve
from colab_magics.data.tokenise import Tokens, Trained
from colab_magics.data.variables import write_rows
from colab_magics.errors import ColabMagicsError
from colab_magics.inference.generate import Where
from colab_magics.inference.subject import Subject
from colab_magics.recipe import Recipe
from colab_magics.run import cache_folder

ROWS = 20


@dataclass(frozen=True)
class Case:
    """One of them.

    Attributes
    ----------
    question : Question, optional
        None for a plain text: of that there is a loss, and nothing is asked.
    document : tuple, optional
        The tokens of the whole row, and which of them count in the loss; None for a prompt alone.
    """

    question: Question | None
    document: tuple[Tokens, Trained] | None = None


def held_out(subject: Subject, tokenizer: Any, asker: Asker, rows: int | None) -> list[Case]:
    """The first rows of the run's own evaluation data, as they are kept in its folder; None takes all.

    Raises
    ------
    ColabMagicsError
        The run has none.
    """
    run = subject.run
    found = None if run is None else load_prepared(run.folder / "prepared" / "eval")
    if found is None:
        named = run.name if run is not None else subject.label
        raise ColabMagicsError(
            f"{named} keeps no evaluation data.",
            "It was trained without eval_data, or its folder has lost it." if run is not None else "",
            "Name rows that it was not trained on: --data FILE.",
            "Or write prompts below %%compare, or name a variable with --prompts.",
        )
    return cases_of(_cut(found, subject), tokenizer, asker, rows)


def of_data(
    named: str,
    subject: Subject,
    tokenizer: Any,
    asker: Asker,
    rows: int | None,
    namespace: Mapping[str, Any],
    where: Where,
) -> list[Case]:
    """Rows of a file, a notebook variable or a data set on the Hub, prepared as the run's were; says which are left
    out.

    Raises
    ------
    ColabMagicsError
        They cannot be found, read or understood.
    """
    source = resolve(named, namespace, cwd=Path.cwd())
    cache = cache_folder()
    if source.kind == "variable":
        path = cache / "compared" / f"{source.name}.jsonl"
        write_rows(namespace[source.name], path, limit=rows)
        source = Source("variable", source.name, str(path))

    def prepared_by(recipe: Recipe) -> Prepared:
        return prepare(
            source,
            tokenizer,
            recipe,
            split="eval",
            cache=cache,
            now=subject.clock,
            progress=lambda phase, done, total, _: where.progress(phase, done, total),
            limit=rows,
        )

    recipe = subject.recipe or Recipe()
    try:
        made = prepared_by(recipe)
    except NotJudged:  # a run that was taught by comparison is asked for plain answers as well
        made = prepared_by(replace(recipe, objective="sft", loss_type="auto"))
    documents = _cut(made, subject)
    for drop in (*made.dropped, *documents.dropped):
        where.say(f"Left out of {source.name}: {dropped(drop)}.")
    return cases_of(documents, tokenizer, asker, rows)


def trained_on(cases: Sequence[Case], subject: Subject) -> int | None:
    """How many of the cases are rows that the run was trained on; None where its data are not there any more."""
    run = subject.run
    trained = None if run is None else load_prepared(run.folder / "prepared" / "train")
    if trained is None:
        return None
    return among((case.document[0] for case in cases if case.document is not None), _cut(trained, subject))


def cases_of(documents: Documents, tokenizer: Any, asker: Asker, rows: int | None) -> list[Case]:
    """The first documents, each with its last answer taken out as the reference."""
    frame = _Frame.of(asker)
    cases: list[Case] = []
    judged = documents.desirable
    for number in range(len(documents)):
        if len(cases) == rows:
            break
        if judged is not None and not judged[number]:
            continue  # a rejected answer is no reference
        tokens, trained = documents[number]
        first, last = last_answer(trained)
        if first <= 1:
            cases.append(Case(None, (tokens, trained)))
            continue
        ids = tuple(map(int, tokens[:first]))
        reference = tokenizer.decode(tokens[first:last].tolist(), skip_special_tokens=True)
        shown = tokenizer.decode(list(frame.inside(ids)), skip_special_tokens=True).strip()
        cases.append(Case(Question(shown, ids, reference), (tokens, trained)))
    return cases


@dataclass(frozen=True)
class _Frame:
    """What the template puts around every prompt, in tokens."""

    before: tuple[int, ...]
    after: tuple[int, ...]

    @staticmethod
    def of(asker: Asker) -> _Frame:
        try:
            one, other = asker("?").ids, asker("7").ids
        except ColabMagicsError:  # a template of several columns has no one place for a prompt
            return _Frame((), ())
        return _Frame(_same(one, other), _same(one[::-1], other[::-1])[::-1])

    def inside(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        """The prompt alone; all of it where it is framed in another way."""
        end = len(ids) - len(self.after)
        framed = ids[: len(self.before)] == self.before and ids[end:] == self.after
        return ids[len(self.before) : end] if framed else ids


def _same(one: Sequence[int], other: Sequence[int]) -> tuple[int, ...]:
    """How both begin."""
    count = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return tuple(one[:count])


def _cut(made: Prepared, subject: Subject) -> Documents:
    """The documents, as long as the run had them."""
    longest = subject.plan.get("max_length")
    return made.documents(int(longest) if longest else int(made.lengths.max()))
