"""`%generate`, the face that IPython sees."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from IPython.core.magic import Magics, line_cell_magic, magics_class, no_var_expand

from colab_magics.magics.docstring import helped
from colab_magics.magics.light import light

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from colab_magics.inference.subject import Subject
    from colab_magics.magics.generate_line import Asked

HELP = """\
%generate [options] "PROMPT"  ask the newest run's result (quoted, for IPython takes a bare ? at a line's end for
                              help); below %%generate the cell is the prompt: text, a chat (lines that begin with
                              system:, user:, assistant:; or turns in JSON or YAML), or a row {column: value}

  --lines                     each line is a prompt; --prompts VAR takes them from a variable of this notebook
  --run NAME                  another run; --checkpoint STEP as it was then; --base as it was before
  --model ID_OR_FOLDER        any model or adapter; with --run the base below that run's adapter
  --system TEXT               in place of the recipe's system prompt
  --raw                       send the text as it is: no template, no system prompt
  --max-new-tokens N          256; and the other options of transformers' generation by their names: --temperature,
                              --top-p, --top-k, --do-sample, --repetition-penalty, --num-return-sequences, --seed, ...
                              Without one that draws, the likeliest token is taken: the same text each time
  --batch N                   texts at once; as many as fit where nothing is said
  --on cuda|cpu               where; the GPU where there is one
  --out VAR                   bind prompts, texts, token counts and seconds to VAR
  --root DIR                  where runs are kept

  --bench                     tokens a second, time to the first token, and a token's latency (p50, p90, p99), for
                              --batch 1,4,8 and --prompt-length 128,1024, with --repeats 3 and --max-new-tokens 64

The model stays in this kernel for the next line: %vram shows it by name, %vram free lets go of it.
Also from a terminal: python -m colab_magics generate
"""


@magics_class
class GenerateMagics(Magics):  # type: ignore[misc]
    """Text from a run's result."""

    # no_var_expand: braces in a prompt are the prompt's
    @no_var_expand  # type: ignore[untyped-decorator]
    @line_cell_magic  # type: ignore[untyped-decorator]
    @helped(HELP)
    @light
    def generate(self, line: str, cell: str | None = None) -> None:
        """Ask a run's model."""
        from colab_magics.magics.asking_line import asked_words
        from colab_magics.magics.generate_line import read

        asked = read(asked_words(line))
        if asked.help or (not line.strip() and cell is None):
            print(HELP, end="")
            return
        from colab_magics.errors import Interrupted
        from colab_magics.magics.vram import runs_of

        try:
            made = run(asked, cell, runs_of(self.shell) if asked.root is None else None, self.shell)
        except KeyboardInterrupt:
            raise Interrupted("%generate was stopped before its end.") from None
        if asked.out is not None:
            self.shell.user_ns[asked.out] = made
        if getattr(made, "interrupted", False):
            kept = f" and in {asked.out}" if asked.out is not None else ""
            raise Interrupted(f"the text was ended after {sum(made.new_tokens):,} tokens; what came is above{kept}.")


def run(asked: Asked, body: str | None, root: Path | None, shell: Any = None) -> Any:
    """Do what the line asks, and show it; what `--out` binds.

    Parameters
    ----------
    root : where runs are kept, unless the line says it
    shell : IPython's; none in a terminal
    """
    from colab_magics.inference.generate import Where, generate
    from colab_magics.magics.durable import rooms
    from colab_magics.magics.generate_line import bench_has_no_prompt
    from colab_magics.magics.generate_show import Loading, Printed, Tabled
    from colab_magics.magics.prompts import check_is_no_run, prompts_of
    from colab_magics.run import runs_root

    if asked.bench and body is not None and body.strip():
        raise bench_has_no_prompt()
    found = root or rooms(runs_root(asked.root)).root
    if asked.run is None and asked.model is None:
        check_is_no_run(asked.text, found, "%generate")
    subject = subject_of(asked, found)
    loading = Loading()
    batch = asked.batch[0] if asked.batch else None
    where = Where(found, asked.on, batch, print, loading)
    for note in subject.notes:
        print(note)
    if asked.bench:
        from colab_magics.magics.bench_show import bench

        return bench(asked, subject, where)
    if asked.sampling.seed is not None and not asked.sampling.do_sample:
        print("--seed changes nothing here: the likeliest token is taken each time. --do-sample draws.")
    namespace = None if shell is None else shell.user_ns
    said = prompts_of(asked.text, body, asked.prompts, namespace, lines=asked.lines)
    places = [words_of(one) for one in said for _ in range(asked.sampling.copies)]
    moving = getattr(shell, "kernel", None) is not None
    screen = Printed() if len(places) == 1 else Tabled(places, moving=moving)

    def tell(place: int, text: str) -> None:
        loading.over()
        screen.tell(place, text)

    try:
        made = generate(subject, said, asked.sampling, where, raw=asked.raw, system=asked.system, tell=tell)
    finally:
        loading.over()
    screen.finish(made)
    return made


def subject_of(asked: Any, root: Path) -> Subject:
    """Who is asked.

    Raises
    ------
    ColabMagicsError
        There is no such run, result, checkpoint or model.
    """
    from dataclasses import replace

    from colab_magics.inference.subject import of_model, of_run

    if asked.model is not None and asked.run is None:
        return of_model(asked.model)
    subject = of_run(asked.run, root, step=asked.checkpoint, base=asked.base)
    return subject if asked.model is None else replace(subject, base=asked.model, revision=None)


def words_of(said: str | Sequence[Mapping[str, Any]] | Mapping[str, Any]) -> str:
    """A prompt as a line of a table begins with it, until it is known as a question."""
    if isinstance(said, str):
        return said
    if not isinstance(said, dict):
        said = said[-1] if said else {}  # type: ignore[index]
    return str(said.get("content") or said.get("value") or next(iter(said.values()), ""))  # type: ignore[union-attr]
