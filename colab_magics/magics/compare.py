"""`%compare`, the face that IPython sees."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from IPython.core.magic import Magics, line_cell_magic, magics_class

from colab_magics.magics.docstring import helped
from colab_magics.magics.light import light

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from colab_magics.errors import ColabMagicsError
    from colab_magics.inference.cases import Case
    from colab_magics.inference.compare import Compared, Score
    from colab_magics.inference.generate import Where
    from colab_magics.inference.subject import Subject
    from colab_magics.magics.compare_line import Asked

HELP = """\
%compare [options]            the newest run against the model that it began with, on the run's own evaluation data;
                              below %%compare the cell holds prompts, as with %%generate

  --run NAME                  another run; --checkpoint STEP as it was then
  --with RUN                  against another run's result; --checkpoints 50,100 two checkpoints of one run
  --model ID_OR_FOLDER        an adapter or model that no run has made, against its base; with --run against that model
  --rows N|all                how many rows of the evaluation data (20)
  --data FILE                 rows of a file, a variable or a data set on the Hub
  --prompts VAR               prompts in a variable; --lines: each line of the cell is one
  --score FUNCTION            your own function of (prompt, text, reference): a number, or True and False
  --threshold X               below that score a text has failed (0.5); without a score one that is not the reference
  --failures FILE             the rows that failed as JSONL, in a form that data: reads
  --system TEXT               in place of the recipe's system prompt
  --max-new-tokens N          256; and the other options of transformers' generation, as with %generate
  --batch N, --on cuda|cpu, --out VAR, --root DIR   as with %generate

Loss and perplexity are those of the answers, as the run's own evaluation has them.
Also from a terminal: python -m colab_magics compare
"""


@magics_class
class CompareMagics(Magics):  # type: ignore[misc]
    """Two models side by side."""

    @line_cell_magic  # type: ignore[untyped-decorator]
    @helped(HELP)
    @light
    def compare(self, line: str, cell: str | None = None) -> None:
        """A run against its base, side by side."""
        from colab_magics.magics.asking_line import asked_words
        from colab_magics.magics.compare_line import read

        asked = read(asked_words(line))
        if asked.help:
            print(HELP, end="")
            return
        from colab_magics.errors import Interrupted
        from colab_magics.magics.vram import runs_of

        try:
            made = run(asked, cell, runs_of(self.shell) if asked.root is None else None, self.shell.user_ns)
        except KeyboardInterrupt:
            raise Interrupted("%compare was stopped before its end.") from None
        if asked.out is not None:
            self.shell.user_ns[asked.out] = made


def run(asked: Asked, body: str | None, root: Path | None, namespace: dict[str, Any] | None = None) -> Compared:
    """Compare what the line asks for, and show it.

    Parameters
    ----------
    root : where runs are kept, unless the line says it
    namespace : the notebook's variables; none in a terminal
    """
    from dataclasses import replace

    from colab_magics.data.overlap import learnt_by_heart
    from colab_magics.errors import ColabMagicsError
    from colab_magics.inference.cases import trained_on
    from colab_magics.inference.compare import compare
    from colab_magics.inference.generate import Where, asker_of
    from colab_magics.inference.importing import import_torch
    from colab_magics.inference.loaded import open_tokenizer
    from colab_magics.inference.recorded import PROMPTS, record, recorded_rows
    from colab_magics.magics.compare_show import bundle, cut
    from colab_magics.magics.durable import rooms
    from colab_magics.magics.generate_show import Loading
    from colab_magics.magics.prompts import check_is_no_run
    from colab_magics.magics.vram import show
    from colab_magics.run import runs_root

    root = root or rooms(runs_root(asked.root)).root
    if asked.run is None and asked.model is None:
        check_is_no_run(asked.text, root, "%compare")
    if asked.rows is not None and _on(asked, body) == PROMPTS:
        raise ColabMagicsError(
            "--rows goes with data, and here are prompts.",
            "All prompts are asked.",
            "Leave --rows out, or the prompts.",
        )
    score = _score(asked, namespace)
    before, after = _two(asked, root)
    for note in after.notes:
        print(note)
    loading = Loading()
    where = Where(root, asked.on, asked.batch, print, loading)
    target = _failures_file(asked)
    import_torch(print)
    tokenizer = open_tokenizer(after)
    asker = asker_of(after, tokenizer, asked.system)
    try:
        cases = _cases(asked, body, after, tokenizer, asker, namespace, where)
        familiar = trained_on(cases, after)
        made = compare(
            (before, after),
            tokenizer,
            cases,
            asker.stops,
            asked.sampling,
            where,
            score=score,
            threshold=asked.threshold,
            tell=lambda what: loading(what, 0, None),
        )
    finally:
        loading.over()
    made = replace(made, trained_on=familiar)
    foot = [*cut(made), *_foot(made, target)]
    if familiar:
        foot.append(f"Of these rows {learnt_by_heart(familiar, len(cases))}.")
    if after.run is not None and _is_of_its_base(asked):
        on = _on(asked, body)
        earlier = recorded_rows(after.run, on)
        if record(made, after, asked.sampling, on=on):
            instead = (
                f", in the place of the one on {earlier:,} {'case' if earlier == 1 else 'cases'}" if earlier else ""
            )
            foot.append(f"%report {after.run.name} shows it, too{instead}.")
    show(bundle(made, foot))
    return made


def _two(asked: Asked, root: Path) -> tuple[Subject, Subject]:
    """Who is compared, the newer one second."""
    from dataclasses import replace

    from colab_magics.inference.subject import of_model, of_run

    if asked.checkpoints is not None:
        first, second = asked.checkpoints
        if first == second:
            raise _the_same(f"--checkpoints {first},{second}")
        return of_run(asked.run, root, step=first), of_run(asked.run, root, step=second)
    if asked.model is not None and asked.run is None and asked.other is None:
        after = of_model(asked.model)
        return replace(after, adapter=None, label=f"the base of {after.label}"), after
    after = of_run(asked.run, root, step=asked.checkpoint)
    if asked.other is not None:
        other = of_run(asked.other, root)
        if other.run == after.run and asked.checkpoint is None:
            raise _the_same(f"--with {asked.other}")
        return other, after
    if asked.model is not None and after.adapter is not None and after.base_is_gone:
        note = f"{after.base} has gone: the adapter of {after.label} is put on {asked.model}."
        before = of_model(asked.model)
        return before, replace(after, base=before.base, revision=before.revision, notes=(*after.notes, note))
    if asked.model is not None:
        return of_model(asked.model), after
    return of_run(after.run.name if after.run is not None else None, root, base=True), after


def _the_same(option: str) -> ColabMagicsError:
    from colab_magics.errors import ColabMagicsError

    return ColabMagicsError(
        f"{option} sets one model beside itself.",
        "Both sides would say the same.",
        "Leave it out to have the base beside it, or name another.",
    )


def _is_of_its_base(asked: Asked) -> bool:
    """Whether a run's result is set beside what it began with: what its report tells."""
    return all(one is None for one in (asked.checkpoints, asked.checkpoint, asked.other, asked.model))


def _on(asked: Asked, body: str | None) -> str:
    if asked.data is not None:
        return asked.data
    from colab_magics.inference.recorded import PROMPTS

    return PROMPTS if body is not None or asked.text or asked.prompts is not None else "the run's evaluation data"


def _cases(
    asked: Asked,
    body: str | None,
    after: Subject,
    tokenizer: Any,
    asker: Any,
    namespace: Mapping[str, Any] | None,
    where: Where,
) -> list[Case]:
    from colab_magics.errors import ColabMagicsError
    from colab_magics.inference.cases import ROWS, Case, held_out, of_data
    from colab_magics.inference.generate import questions_of
    from colab_magics.magics.prompts import prompts_of

    rows = ROWS if asked.rows is None else asked.rows or None
    if asked.data is not None:
        if body is not None and body.strip():
            raise ColabMagicsError(
                "There are --data and prompts in the cell.", "Rows have their prompts in them.", "Keep one of them."
            )
        cases = of_data(asked.data, after, tokenizer, asker, rows, namespace or {}, where)
    elif body is not None or asked.text or asked.prompts is not None:
        said = prompts_of(asked.text, body, asked.prompts, namespace, lines=asked.lines)
        return [Case(one) for one in questions_of(said, asker)]
    else:
        cases = held_out(after, tokenizer, asker, rows)
    _learn_stops(cases, asker, tokenizer)
    return cases


def _learn_stops(cases: list[Case], asker: Any, tokenizer: Any) -> None:
    """What closes the answers of the rows closes the model's: a question would have shown it, had one been asked."""
    added = set(getattr(tokenizer, "added_tokens_decoder", {}))
    for case in cases:
        if case.document is not None and case.question is not None:
            last = int(case.document[0][-1])
            asker.stops |= {last} & added


def _score(asked: Asked, namespace: Mapping[str, Any] | None) -> Score | None:
    from colab_magics.errors import ColabMagicsError, nearest

    if asked.score is None:
        return None
    if namespace is None:
        raise ColabMagicsError("--score needs a notebook.", "It names one of its functions.", "Run %compare in a cell.")
    found: Score | None = namespace.get(asked.score)
    if not callable(found):
        close = nearest(asked.score, [name for name, one in namespace.items() if callable(one) and name[0] != "_"])
        raise ColabMagicsError(
            f"There is no function {asked.score}." if found is None else f"{asked.score} is no function.",
            "--score names one of this notebook, called as score(prompt, text, reference).",
            f"Did you mean {close}?" if close else "Run the cell that defines it.",
        )
    return found


def _failures_file(asked: Asked) -> Path | None:
    """Where the failures go; looked at before anything is asked."""
    from pathlib import Path

    from colab_magics.errors import ColabMagicsError

    if asked.failures is None:
        return None
    target = Path(asked.failures).expanduser().resolve()
    if target.suffix != ".jsonl" or not target.parent.is_dir() or target.is_dir():
        raise ColabMagicsError(
            f"--failures {asked.failures} cannot be written.",
            f"There is no folder {target.parent}." if not target.parent.is_dir() else "It takes the name of a file.",
            "Name a file that ends in .jsonl, in a folder that is there.",
        )
    if asked.data is not None and target.exists() and target == Path(asked.data).expanduser().resolve():
        raise ColabMagicsError(
            f"--failures {asked.failures} is the file of --data.",
            "The failures would take the place of the rows.",
            "Name another file.",
        )
    if target.exists() and not _holds_failures(target):
        raise ColabMagicsError(
            f"{asked.failures} is there already, and holds no failures of %compare.",
            "Only an earlier file of failures is replaced.",
            "Name another file, or move this one away.",
        )
    return target


def _holds_failures(file: Path) -> bool:
    """Whether each of its lines is a failure as we write them; an empty file holds nothing that could be lost."""
    import json

    from colab_magics.inference.compare import FAILURE

    try:
        with file.open(encoding="utf-8") as lines:
            return all(set(json.loads(line)) == FAILURE for line in lines)
    except (OSError, ValueError, TypeError):
        return False


def _foot(made: Compared, target: Path | None) -> list[str]:
    """What has failed, and where it is written."""
    import json

    judged = made.after.exact is not None or made.after.score is not None
    if target is None or not judged:
        said = f"{len(made.failures)} of {len(made.prompts)} failed; --failures FILE keeps them." if judged else ""
        return [said] if said else []
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in made.failures)
    partial = target.with_name(f".{target.name}.partial")
    partial.write_text(lines, encoding="utf-8")
    partial.replace(target)
    failed = f"{len(made.failures)} of {len(made.prompts)} failed"
    if not made.failures:
        return [f"{failed}: {target} is empty."]
    return [f"{failed}: {target}. Look at them, put the answers right, and add them to the data."]
