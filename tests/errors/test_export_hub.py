"""An export to a real, small Hub, and a merge with a base that is there: one commit, private, and never a stranger's.

The process that merges reads the Hub's address from its environment; the notebook's own client is pointed there.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from colab_magics.errors import ColabMagicsError
from colab_magics.events import EventLog
from colab_magics.magics.export import perform
from colab_magics.magics.export_line import read
from colab_magics.recipe import Recipe
from colab_magics.run import Run
from colab_magics.training.merging.base import Base, Wish, bring_weights, find_base
from colab_magics.training.merging.changes import read_adapter

from .conftest import DEMO, snapshot
from .hub_server import COMMIT, Hub, serving
from .test_hub import TOKEN, look_there

pytestmark = [pytest.mark.colab, pytest.mark.xdist_group("hub")]

NEWER = "f" * 40


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    folder = tmp_path / "repositories"
    folder.mkdir()
    quantised = folder / "quantised"
    quantised.mkdir()
    config = {**json.loads((DEMO / "model" / "config.json").read_text()), "quantization_config": {"load_in_4bit": True}}
    (quantised / "config.json").write_text(json.dumps(config))
    (quantised / "model.safetensors").write_bytes(b"four bits")
    names = {"org/tiny": DEMO / "model", "org/tiny-unsloth-bnb-4bit": quantised, "org/odd": quantised}
    with serving(Hub(names, token=TOKEN, owners={"me"}, home=folder)) as hub:
        look_there(monkeypatch, hub.endpoint, tmp_path / "hub-home")
        # this process has imported the client under other variables; and the small Hub has no Xet
        template = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        for name, value in (
            ("HF_HUB_DISABLE_XET", True),
            ("HUGGINGFACE_CO_URL_TEMPLATE", template),
            ("HF_HUB_CACHE", str(tmp_path / "hub-home" / "hub")),
        ):
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        monkeypatch.chdir(tmp_path)
        yield hub


@pytest.fixture
def run(hub: Hub, tmp_path: Path) -> Run:
    """A finished run with an adapter of org/tiny, trained at its commit."""
    import torch
    from safetensors.torch import save_file

    run = Run(tmp_path / "runs" / "kwanzaa")
    adapter = run.folder / "adapter"
    adapter.mkdir(parents=True)
    log = EventLog(run.folder / "events.jsonl", 1)
    log.append("finished", step=4, reason="completed", path=str(adapter))
    log.close()
    (run.folder / "recipe.yaml").write_text(Recipe(model="org/tiny", data="rows.jsonl").to_yaml())
    torch.manual_seed(0)
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    tensors = {name.format("A"): torch.randn(4, 192), name.format("B"): torch.randn(192, 4)}
    save_file(tensors, adapter / "adapter_model.safetensors", {"format": "pt"})
    trained_on(run, "org/tiny", COMMIT)
    shutil.copy(DEMO / "model" / "tokenizer.json", adapter / "tokenizer.json")
    (adapter / "README.md").write_text("---\nbase_model: org/tiny\n---\n\n# org/tiny, fine-tuned\n")
    (adapter / ".env").write_text(TOKEN)
    return run


def trained_on(run: Run, base: str, revision: str | None) -> None:
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "base_model_name_or_path": base, "revision": revision}
    (run.folder / "adapter" / "adapter_config.json").write_text(json.dumps(config))


def export(run: Run, *words: str) -> str:
    return perform(read(words), run.folder.parent)["text/plain"]


def refused(run: Run, *words: str) -> str:
    """What is said of an export that must leave nothing behind."""
    before = snapshot(run.folder.parent)
    with pytest.raises(ColabMagicsError) as raised:
        export(run, *words)
    print(raised.value)
    assert snapshot(run.folder.parent) == before
    assert not list(Path.cwd().glob(".*kwanzaa*"))
    assert raised.value.next_steps
    assert TOKEN not in str(raised.value)
    return str(raised.value)


def test_an_adapter_goes_to_a_private_repository_in_one_commit(run: Run, hub: Hub) -> None:
    said = export(run, "--to", "hub://me/kwanzaa")
    assert said.endswith(f"{hub.endpoint}/me/kwanzaa (private)")
    assert hub.private == {"me/kwanzaa"}
    assert hub.commits == [("me/kwanzaa", "kwanzaa, by colab_magics")]
    there = hub.repositories["me/kwanzaa"]
    names = ["README.md", "adapter_config.json", "adapter_model.safetensors", "tokenizer.json"]
    assert sorted(path.name for path in there.iterdir()) == names
    for name in names[1:]:
        assert (there / name).read_bytes() == (run.folder / "adapter" / name).read_bytes()
    assert "base_model: org/tiny" in (there / "README.md").read_text()


def test_the_hub_is_told_no_folder_of_this_machine(run: Run, hub: Hub) -> None:
    trained_on(run, "/home/me/models/big", None)
    (run.folder / "recipe.yaml").write_text(Recipe(model="/home/me/models/big", data="rows.jsonl").to_yaml())
    said = export(run, "--to", "hub://me/kwanzaa")
    assert "on the Hub it has that folder's name alone" in said
    config = json.loads((hub.repositories["me/kwanzaa"] / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "big"


def test_it_is_public_only_if_that_is_asked_for(run: Run, hub: Hub) -> None:
    assert export(run, "--to", "hub://me/open", "--public").endswith("(public)")
    assert "me/open" not in hub.private
    commits = list(hub.commits)
    assert "everybody can see it" in refused(run, "--to", "hub://me/open")
    assert hub.commits == commits


def test_what_is_there_is_replaced_by_force_and_what_no_longer_belongs_goes(run: Run, hub: Hub) -> None:
    export(run, "--to", "hub://me/kwanzaa")
    assert "holds 4 files" in refused(run, "--to", "hub://me/kwanzaa")
    there = hub.repositories["me/kwanzaa"]
    (there / "model-00003-of-00003.safetensors").write_bytes(b"of an earlier merge")
    (there / "notes.txt").write_text("the user's own")
    export(run, "--to", "hub://me/kwanzaa", "--force")
    assert not (there / "model-00003-of-00003.safetensors").exists()
    assert (there / "notes.txt").exists()
    assert len(hub.commits) == 2


def test_a_name_without_rights_and_a_repository_of_somebody_else(run: Run, hub: Hub) -> None:
    said = refused(run, "--to", "hub://stranger/kwanzaa")
    assert "Your token may not write to stranger/kwanzaa." in said
    assert "role: write" in said
    hub.private.add("org/mine")
    hub.repositories["org/mine"] = hub.repositories["org/tiny"]
    assert "Your token may not write to org/mine." in refused(run, "--to", "hub://org/mine", "--force")
    assert hub.commits == []


def test_no_token_and_one_that_the_hub_does_not_know(run: Run, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN[::-1])
    assert "does not know this token" in refused(run, "--to", "hub://me/kwanzaa")
    monkeypatch.delenv("HF_TOKEN")
    asked = len(hub.requests)
    assert "No Hub token was found." in refused(run, "--to", "hub://me/kwanzaa")
    assert len(hub.requests) == asked, "nothing was asked of the Hub"


@pytest.mark.parametrize(
    ("status", "what", "step"),
    [
        (500, "The Hub answered with an error of its own (HTTP 500), and me/kwanzaa was not uploaded.", "later"),
        (429, "The Hub answered with an error (HTTP 429), and me/kwanzaa was not uploaded.", "later"),
        (413, "The Hub refuses what it was asked (HTTP 413), and me/kwanzaa was not uploaded.", "Mend what it names"),
    ],
)
def test_a_hub_that_answers_with_an_error_is_not_called_out_of_reach(
    run: Run, hub: Hub, monkeypatch: pytest.MonkeyPatch, status: int, what: str, step: str
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    hub.failing = status
    said = refused(run, "--to", "hub://me/kwanzaa")
    assert what in said
    assert step in said
    assert "network" not in said


def test_offline_mode_is_named_with_the_way_out_of_it(run: Run, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")  # as somebody does who believes that it is read again
    said = refused(run, "--to", "hub://me/kwanzaa")
    assert "Offline mode is on: HF_HUB_OFFLINE was set" in said
    assert "Restart the kernel, and write %env HF_HUB_OFFLINE=0 in its first cell." in said
    assert "network" not in said
    assert hub.requests == []


def test_what_was_under_way_is_not_shown_after_a_refusal(run: Run, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr("colab_magics.magics.display.Output.show", lambda _, frame: shown.append(frame["text/plain"]))
    with pytest.raises(ColabMagicsError):
        perform(read(["--to", "hub://stranger/kwanzaa"]), run.folder.parent, in_kernel=True)
    assert shown[0].startswith("Uploading")
    assert shown[-1] == ""


def test_a_merged_model_goes_there_whole(run: Run, hub: Hub) -> None:
    export(run, "--merge", "--to", "hub://me/merged")
    names = sorted(path.name for path in hub.repositories["me/merged"].iterdir())
    assert names == ["README.md", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json"]
    assert f"at commit `{COMMIT}`" in (hub.repositories["me/merged"] / "README.md").read_text()
    assert not list(Path.cwd().glob("*merged*")), "nothing is left on the disk"


def base_of(run: Run, wish: Wish = Wish(), said: list[str] | None = None) -> Base:  # noqa: B008 - it is frozen
    """The base that the process which merges would take."""
    return find_base(read_adapter(run.folder / "adapter"), wish, (said if said is not None else []).append)


def test_a_base_is_taken_at_the_commit_of_the_training_and_refused_where_that_is_gone(run: Run, hub: Hub) -> None:
    hub.commit = NEWER
    asked = len(hub.requests)
    assert base_of(run).id == "org/tiny"
    assert hub.requests[asked].startswith(f"GET /api/models/org/tiny/revision/{COMMIT}")
    hub.gone.add(COMMIT)
    said = refused(run, "--merge")
    assert "org/tiny has changed since the training." in said
    assert COMMIT in said
    assert f"--base-revision {NEWER}" in said
    assert base_of(run, Wish(revision=NEWER)).revision == NEWER
    with pytest.raises(ColabMagicsError, match="has no revision v9"):
        base_of(run, Wish(revision="v9"))


def test_a_quantised_base_is_replaced_by_the_model_that_it_was_made_from(run: Run) -> None:
    said: list[str] = []
    trained_on(run, "org/tiny-unsloth-bnb-4bit", COMMIT)
    assert base_of(run, said=said).id == "org/tiny"
    assert said == ["org/tiny-unsloth-bnb-4bit is quantised: the adapter is added to org/tiny, from which it was made."]
    trained_on(run, "org/odd", COMMIT)
    with pytest.raises(ColabMagicsError) as raised:
        base_of(run)
    assert "org/odd is quantised, and does not say from what." in str(raised.value)
    assert "--base org/name" in str(raised.value)
    assert base_of(run, Wish("org/tiny")).id == "org/tiny"


def test_weights_are_fetched_once_and_taken_from_the_cache_where_there_is_no_network(
    run: Run, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[int] = []
    base = base_of(run)
    assert base.missing == ("model.safetensors",)
    bring_weights(base, lambda done, _: fetched.append(done), into=run.folder, least=0)
    assert fetched[-1] == base.bytes
    with pytest.raises(ColabMagicsError, match="too full for org/tiny and what is made of it"):
        bring_weights(base, lambda *_: None, into=run.folder, least=2**60)
    assert base_of(run).missing == ()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")  # nobody answers there
    monkeypatch.setattr("time.sleep", lambda _: None)  # nor is anybody waited for
    kept = base_of(run)
    assert (kept.revision, kept.missing) == (COMMIT, ())
    assert [path.name for path in kept.weights] == ["model.safetensors"]
