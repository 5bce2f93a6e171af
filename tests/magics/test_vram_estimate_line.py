"""The words of `%vram estimate`: each option, and each slip in a short sentence."""

from __future__ import annotations

import pytest

from colab_magics.errors import ColabMagicsError
from colab_magics.magics.vram_devices import card, devices
from colab_magics.magics.vram_estimate_line import Asked, read
from colab_magics.plan import GIB
from colab_magics.session.table import load_table

pytestmark = [pytest.mark.face, pytest.mark.colab]


@pytest.fixture(scope="module")
def table():
    return load_table(None)


@pytest.mark.parametrize(
    ("line", "asked"),
    [
        ("", Asked()),
        ("run", Asked(name="run")),
        ("--model demo", Asked(recipe={"model": "demo"})),
        ("--model=demo --max-length 64", Asked(recipe={"model": "demo", "max_length": "64"})),
        ("--max_length 64", Asked(recipe={"max_length": "64"})),
        ("--lora-r 8", Asked(recipe={"lora_r": "8"})),  # the recipe knows that spelling
        ("--gpu T4", Asked(gpus=("T4",))),
        ("--gpu T4,24GB, --batch 4", Asked(gpus=("T4", "24GB"), batch="4")),
        ("net --batch x --optimizer opt --keep a,b", Asked("net", batch="x", optimizer="opt", keep=("a", "b"))),
        ("--compare --quick", Asked(compare=True, quick=True)),
        ("--inference --context 8_192", Asked(inference=True, context=8192)),
        ("--root /runs run", Asked("run", root="/runs")),
        *((word, Asked(help=True)) for word in ("-h", "-?", "help", "--help")),
    ],
)
def test_lines(line, asked):
    assert read(line.split()) == asked


@pytest.mark.parametrize(
    ("line", "what", "step"),
    [
        ("--gpuu T4", "no option --gpuu", "Did you mean --gpu?"),
        ("--max-lenght 3", "no option --max-lenght", "Did you mean --max-length?"),
        ("--comparee", "no option --comparee", "--compare?"),
        ("-x", "no option -x", "--help lists them"),
        ("--", "no option --", "--help lists them"),
        ("--zzzzzz 1", "no option --zzzzzz", "--help lists them"),
        ("--model", "--model needs a value", "Write --model VALUE"),
        ("--model --quick", "--model needs a value", "Write --model VALUE"),
        ("--gpu ,", "--gpu needs a value", "Write --gpu VALUE"),
        ("--keep=", "--keep needs a value", "Write --keep VALUE"),
        ("--quick=false", "--quick takes no value", "Write --quick alone"),
        ("--gpu T4 --gpu L4", "--gpu is there twice", "--gpu T4,L4"),
        ("--model a --model=b", "--model is there twice", "Write --model once"),
        ("one two", "takes one name, and there are one and two", "--max-length"),
        *(
            (f"--context {wrong}", "no number of tokens", "--context 8192")
            for wrong in ("abc", "0", "-5", "1.5", "1e3")
        ),
    ],
)
def test_slips(line, what, step):
    with pytest.raises(ColabMagicsError) as raised:
        read(line.split())
    assert what in raised.value.what
    assert step in raised.value.next_steps[-1]
    assert len(raised.value.lines()) == 3


# --- cards ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "name", "capability"),
    [("T4", "Tesla T4 16 GB", (7, 5)), ("t4", "Tesla T4 16 GB", (7, 5)), ("Tesla T4", "Tesla T4 16 GB", (7, 5)),
     ("A100", "A100 40 GB", (8, 0)), ("a100-80", "A100 80 GB", (8, 0)), ("L4", "L4 24 GB", (8, 9)),
     (" V100 ", "Tesla V100 16 GB", (7, 0))],
)  # fmt: skip
def test_names_of_cards(table, written, name, capability):
    (found,) = devices([written], table)
    assert (found.name, found.capability, found.free) == (name, capability, found.total)


@pytest.mark.parametrize("written", ["RTX 4090", "rtx4090", "RTX-4090", "rtx_4090", "NVIDIA GeForce RTX 4090"])
def test_a_card_is_known_however_it_is_spelt(table, written):
    (found,) = devices(read(["--gpu", *written.split(), "run"]).gpus, table)
    assert "4090" in found.name
    assert read(["--gpu", *written.split(), "run"]).name == "run"


@pytest.mark.parametrize("written", ["T4x2", "2 T4", "2xT4", "T4 x 2", "2x Tesla T4"])
def test_of_two_cards_one_is_meant(table, written):
    (found,) = devices([written], table)
    assert (found.name, found.total) == ("Tesla T4 16 GB, one of 2", card("T4", table).total)


@pytest.mark.parametrize("words", [["24", "GB"], ["24", "gib"]])
def test_a_size_may_have_a_space(table, words):
    asked = read(["--gpu", *words, "run"])
    assert asked.name == "run"
    assert devices(asked.gpus, table)[0].total >= 24 * 10**9


@pytest.mark.parametrize("written", ["RTX 3060", "A6000", "H200", "RTX 5090"])
def test_of_an_unknown_card_a_size_is_offered_first(table, written):
    with pytest.raises(ColabMagicsError) as raised:
        devices([written], table)
    assert raised.value.next_steps[0] == "A size will do: --gpu 24GB."
    assert not any("A100" in step for step in raised.value.next_steps)


def test_a_number_alone_is_told_its_unit(table):
    with pytest.raises(ColabMagicsError, match="no unit") as raised:
        devices(["24"], table)
    assert raised.value.next_steps == ("Write --gpu 24GB.",)


def test_a_switch_of_the_recipe_needs_no_value():
    assert read(["--load-in-4bit", "--packing", "false", "--gradient-checkpointing"]).recipe == {
        "load_in_4bit": True,
        "packing": "false",
        "gradient_checkpointing": True,
    }


def test_a_context_may_be_written_in_thousands():
    assert read(["--inference", "--context", "128k"]).context == 131_072


def test_a_t4_has_what_torch_sees_of_it(table):
    assert card("T4", table).total / GIB == pytest.approx(14.56, abs=0.01)


@pytest.mark.parametrize(
    ("written", "total"),
    [("24GB", 24 * 10**9), ("24GiB", 24 * GIB), ("24g", 24 * 10**9), ("16384 MiB", 16 * GIB), ("7.5 gib", 7.5 * GIB)],
)
def test_a_size_will_do(table, written, total):
    (found,) = devices([written], table)
    assert (found.total, found.kind) == (total, "cuda")
    assert written in found.name


@pytest.mark.parametrize(
    ("written", "step"),
    [("H200", "Did you mean H100?"), ("tt4", "Did you mean T4?"), ("RTX 4080", "Did you mean RTX-4090?"),
     ("24", "--gpu 24GB"), ("24TB", "--gpu 24GB"), ("-24GB", "--gpu 24GB"), ("0GB", "--gpu 24GB"),
     ("<script>", "--gpu 24GB"),
     ("nothing like it", "--gpu 24GB")],
)  # fmt: skip
def test_an_unknown_card_names_the_nearest_or_what_is_understood(table, written, step):
    with pytest.raises(ColabMagicsError) as raised:
        devices(["T4", written], table)
    assert written in raised.value.what
    assert step in raised.value.next_steps[-1]


def test_a_cpu_is_this_machine_s(table):
    (found,) = devices(["cpu"], table)
    assert (found.kind, found.capability) == ("cpu", None)
    assert found.total > GIB
