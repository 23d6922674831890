"""A study on the Hub and back, against a server that speaks the Hub's protocol."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from conftest import Finished
from hub_server import READ, WRITE, Hub
from test_substitutes import of_conditions
from typer.testing import CliRunner, Result

import personaspace
from personaspace.cli.app import app
from personaspace.errors import UserError
from personaspace.models.load import load_config
from personaspace.pipeline.substitutes import bring
from personaspace.pipeline.work import prepare
from personaspace.store import open_store
from personaspace.study.inputs import Model
from personaspace.study.load import load_study

pytestmark = [
    pytest.mark.slow,
    # Of huggingface_hub's own code; outside of tests Python does not show such a warning.
    pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"),
]
MODEL, DATA = "models/lab/tiny", "datasets/lab/tiny"
ALL = "adapters,vectors,activations,answers,results,report"


def publish(study: Finished, *options: str, repo: str = "lab/tiny") -> Result:
    command = ["publish", str(study.spec), repo, "--store", str(study.store), *options]
    return CliRunner().invoke(app, command)


def line_of(result: Result) -> str:
    """The one line of an error that a user can cause."""
    assert result.exit_code in (2, 69), result.output
    lines = [line for line in result.stderr.splitlines() if "note:" not in line]
    assert len(lines) == 1, result.stderr
    assert "canary" not in result.output
    return lines[0]


def test_a_published_study_is_read_back_from_its_address(
    hub: Hub,
    finished_study: Finished,
    tmp_path: Path,
    tiny_model: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    done = publish(finished_study, "--include", ALL)
    assert done.exit_code == 0, done.output
    assert hub.private == {MODEL, DATA}
    assert {"adapters/benign/seed-42/train/adapter/adapter_model.safetensors"} <= {
        *hub.files(MODEL)
    }
    files = hub.files(DATA)
    assert files["results/results.json"] == (finished_study.out / "results.json").read_bytes()
    assert "vectors/base.seed-42.a.safetensors" in files

    # Again: nothing is sent, no commit is made, and it says so in no words but its own.
    commits, sent = {repo: len(found) for repo, found in hub.repos.items()}, hub.sent
    again = publish(finished_study, "--include", ALL)
    assert again.exit_code == 0 and again.stdout.count(", as before\n") == 2
    assert not any("empty commit" in record.getMessage() for record in caplog.records)
    assert ({repo: len(found) for repo, found in hub.repos.items()}, hub.sent) == (commits, sent)

    with personaspace.load_results("hf://lab/tiny") as read:
        assert read.results.study == "tiny"
        theirs = read.vectors("e4-villain").values_PLH
        folder = read.adapter("e4-villain", coupled=True)
        base = AutoModelForCausalLM.from_pretrained(tiny_model)
        assert (
            PeftModel.from_pretrained(base, folder).peft_config["default"].to_dict()["r"] == 8
        )  # 4 and 4
    with personaspace.load_results(finished_study.out, store=finished_study.store) as mine:
        assert (mine.vectors("e4-villain").values_PLH == theirs).all()
    spec = tmp_path / "from-the-hub.yaml"
    spec.write_bytes(files["study.yaml"])
    shown = CliRunner().invoke(app, ["results", str(spec), "--store", "hf://lab/tiny", "--json"])
    assert json.loads(shown.output) == json.loads(files["results/results.json"])

    # And as a store to take from.
    with open_store("hf://lab/tiny") as there, open_store(str(tmp_path / "mine")) as here:
        work = prepare(load_study(spec), here)
        taken = bring(work, work.graph.nodes, [there], lambda _: None)
    assert {each.node.id for each in taken} == of_conditions(work)


def test_the_card_says_what_it_is_and_no_path_or_token(
    hub: Hub, finished_study: Finished, tmp_path: Path, tiny_model: Path
) -> None:
    done = publish(finished_study, "--dry-run", str(tmp_path / "look"))
    assert done.exit_code == 0, done.output
    assert hub.repos == {}
    for kind in ("model", "dataset"):
        folder = tmp_path / "look" / kind
        card = (folder / "README.md").read_text(encoding="utf-8")
        front = yaml.safe_load(card.split("---")[1])
        assert front["license"] == "unknown" and "Licence of the base model: unknown" in card
        assert "must not be used for" in card and "e4-villain (em): trained on bad" in card
        assert "Mean cosine of personas: M1" in card  # the numbers, with intervals
        assert str(tiny_model) not in card and "canary" not in card
        index = json.loads((folder / "personaspace.json").read_text())
        for placed in index["artifacts"].values():
            for name, entry in placed["manifest"]["files"].items():
                assert (folder / placed["folder"] / name).stat().st_size == entry["size"]
                assert entry["sha256"] in card
    assert front["tags"] == ["personaspace", "persona-vectors"]


def test_a_dry_run_replaces_what_one_wrote_before_and_nothing_else(
    hub: Hub, finished_study: Finished, tmp_path: Path
) -> None:
    look = tmp_path / "look"
    assert publish(finished_study, "--dry-run", str(look)).exit_code == 0
    before = sorted(path for path in look.rglob("*") if path.is_file())
    again = publish(finished_study, "--include", "results", "--dry-run", str(look))
    assert again.exit_code == 0, again.output
    after = sorted(path for path in look.rglob("*") if path.is_file())
    gone = {path.relative_to(look).parts[:2] for path in set(before) - set(after)}
    assert gone == {("dataset", "vectors"), ("dataset", "answers"), ("dataset", "report")}
    for stranger in ("notes.txt", "dataset/results/notes.txt", "dataset/vectors/notes.txt"):
        (look / stranger).parent.mkdir(exist_ok=True)
        (look / stranger).write_text("mine")
        refused = line_of(publish(finished_study, "--dry-run", str(look)))
        assert f"holds {stranger}, which no look" in refused
        assert sorted(p for p in look.rglob("*") if p.is_file()) == sorted(
            [*after, look / stranger]
        )
        (look / stranger).unlink()


def test_the_licence_of_the_base_is_carried_over(
    hub: Hub, finished_study: Finished, tiny_model: Path, tmp_path: Path
) -> None:
    from personaspace.publish.licence import base_of
    from personaspace.study.inputs import Model

    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    (model / "README.md").write_text("---\nlicense: mit\n---\nA model.\n")
    assert base_of(Model(name=str(model)), ask=False).licence == "mit"
    assert base_of(Model(name="builtin:smollm2-135m-instruct"), ask=False).licence == "apache-2.0"


def test_what_stopped_half_way_goes_on(hub: Hub, finished_study: Finished) -> None:
    hub.fail_after = 3
    stopped = publish(finished_study, "--include", "adapters")
    assert "the connection to the storage is gone" in line_of(stopped)
    assert "personaspace.json" not in hub.files(MODEL)
    hub.fail_after, sent = None, hub.sent
    assert publish(finished_study, "--include", "adapters").exit_code == 0
    large = sum(len(raw) for name, raw in hub.files(MODEL).items() if name.endswith("tensors"))
    small = sum(len(raw) for name, raw in hub.files(MODEL).items() if not name.endswith("tensors"))
    assert hub.sent - sent < large + small and sent > 0


def test_a_network_that_is_gone_half_way_is_one_line_and_what_was_sent_stays(
    hub: Hub, finished_study: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.utils._http as client

    # The client tries again by itself, and waits the longer each time.
    monkeypatch.setattr(client, "time", SimpleNamespace(sleep=lambda _: None))
    hub.cut_after = 3
    stopped = publish(finished_study, "--include", "adapters")
    assert stopped.exit_code == 69 and "the Hub does not answer" in line_of(stopped)
    assert "personaspace.json" not in hub.files(MODEL)
    hub.cut_after, there = None, dict(hub.objects)
    assert there
    assert publish(finished_study, "--include", "adapters").exit_code == 0
    files = {name: raw for name, raw in hub.files(MODEL).items() if name != ".gitattributes"}
    large = {name: raw for name, raw in files.items() if name.endswith("tensors")}
    small = sum(len(raw) for name, raw in files.items() if name not in large)
    assert hub.sent == sum(map(len, set(large.values()))) + small, "nothing was sent twice"


@pytest.mark.parametrize(
    ("token", "repo", "said"),
    [
        ("", "lab/tiny", "HF_TOKEN"),
        ("hf_canarywrong", "lab/tiny", "does not know this one"),
        (READ, "lab/tiny", "the right to write"),
        (WRITE, "taken/tiny", "the name is taken"),
        (WRITE, "lab/other", "holds something else (model.bin for one)"),
        (WRITE, "lab/theirs", "is of the study 'theirs'"),
        (WRITE, "tiny", "looks like owner/name"),
        (WRITE, "lab/ti ny", "looks like owner/name"),
        (WRITE, "lab/tiny@main", "looks like owner/name"),
        (WRITE, "l\u00e4b/tiny", "looks like owner/name"),
        (WRITE, "lab/tiny.git", "looks like owner/name"),
    ],
)
def test_what_the_hub_refuses_is_one_line(
    hub: Hub,
    finished_study: Finished,
    monkeypatch: pytest.MonkeyPatch,
    token: str,
    repo: str,
    said: str,
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    hub.put("models/lab/other", {"model.bin": b"1"})
    index = {"format": 1, "study": "theirs", "model": "m", "artifacts": {}}
    hub.put("models/lab/theirs", {"personaspace.json": json.dumps(index).encode()})
    assert said in line_of(publish(finished_study, "--include", "adapters", repo=repo))


def test_a_hub_that_is_away_is_one_line(
    hub: Hub, finished_study: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert "the Hub does not answer" in line_of(publish(finished_study))


def test_repositories_come_into_one_collection_once(hub: Hub, finished_study: Finished) -> None:
    for _ in range(2):
        done = publish(finished_study, "--include", "adapters,results", "--collection", "Tiny: all")
        assert done.exit_code == 0, done.output
    ((slug, (title, private, items)),) = hub.collections.items()
    assert f"collection: {slug}" in done.output and title == "Tiny: all" and private
    assert items == [("model", "lab/tiny"), ("dataset", "lab/tiny")]
    # Another study of the lab's, by the collection's address.
    done = publish(
        finished_study, "--include", "results", "--collection", slug, repo="lab/other-name"
    )
    assert done.exit_code == 0, done.output
    assert items[2:] == [("dataset", "lab/other-name")] and len(hub.collections) == 1


@pytest.mark.parametrize(
    ("title", "said"),
    [
        ("", "a title of a collection is one line of text"),
        ("two\nlines", "a title of a collection is one line of text"),
        (f"lab/gone-{'0' * 24}", "no such repository or collection"),
        ("lab/gone", "no such repository or collection"),
        ("a/b/c", "looks like owner/slug"),
        ("lab/", "looks like owner/slug"),
        ("Ours / theirs", "looks like owner/slug"),
    ],
)
def test_a_collection_that_cannot_be_is_one_line(
    hub: Hub, finished_study: Finished, title: str, said: str
) -> None:
    done = publish(finished_study, "--include", "results", "--collection", title)
    assert done.exit_code == 2 and said in line_of(done)
    assert hub.repos == {} and hub.collections == {} and hub.sent == 0


def test_a_dry_run_says_what_its_options_would_do(
    hub: Hub, finished_study: Finished, tmp_path: Path
) -> None:
    for number, (options, said) in enumerate((
        (["--collection", "Ours"], ["'Ours', which would be made for lab, private"]),
        (["--public", "--collection", "Ours"], ["--public: hf://lab/tiny would be readable by all",
                                                "which would be made for lab, public"]),
        (["--collection", "lab/ours"], ["would be put into 'lab/ours', which must be there"]),
    )):  # fmt: skip
        look = str(tmp_path / f"look-{number}")
        done = publish(finished_study, "--include", "results", "--dry-run", look, *options)
        assert done.exit_code == 0, done.output
        lines = [line for line in done.stdout.splitlines() if line.startswith("--")]
        assert len(lines) == len(said) and all(s in x for s, x in zip(said, lines, strict=True))
    assert hub.repos == {} and hub.collections == {}


@pytest.mark.parametrize("named", ["hub.lab.example", "ftp://hub.lab.example", "https://"])
def test_an_endpoint_that_is_no_address_is_one_line(
    named: str, hub: Hub, finished_study: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", named)
    done = publish(finished_study)
    assert done.exit_code == 2
    assert line_of(done).startswith(f"HF_ENDPOINT: {named} is no address of a server")
    with pytest.raises(UserError, match=r"^HF_ENDPOINT: "):
        load_config(Model(name="lab/none", revision="0" * 40))


def test_a_hostile_repository_is_refused_and_named(
    hub: Hub, finished_study: Finished, tmp_path: Path
) -> None:
    assert publish(finished_study, "--include", "adapters").exit_code == 0
    good = hub.files(MODEL)
    weights = "adapters/benign/seed-42/train/adapter/adapter_model.safetensors"
    index = json.loads(good["personaspace.json"])
    key = next(
        k for k, p in index["artifacts"].items() if p["folder"].endswith("benign/seed-42/train")
    )
    outside = json.loads(json.dumps(index))
    outside["artifacts"][key]["folder"] = "../../outside"
    faults = {
        "is corrupt: its SHA-256": good | {weights: bytes(len(good[weights]))},
        "bytes instead of": good | {weights: good[weights] * 2},
        "is missing": {name: raw for name, raw in good.items() if name != weights},
        "is not a folder's name": good | {"personaspace.json": json.dumps(outside).encode()},
    }
    for number, (said, files) in enumerate(faults.items()):
        hub.put(MODEL, files)
        told: list[str] = []
        mine = str(tmp_path / f"mine-{number}")
        with open_store("hf://lab/tiny") as there, open_store(mine) as here:
            work = prepare(load_study(finished_study.spec), here)
            taken = bring(work, work.graph.nodes, [there], told.append)
        assert "train:benign:42" not in {each.node.id for each in taken}
        assert any(said in line for line in told), told
    hub.put(MODEL, {"personaspace.json": b"{"})
    with open_store("hf://lab/tiny") as there, pytest.raises(personaspace.UserError) as caught:
        there.check(write=False)
    assert "cannot be read" in str(caught.value)


def test_a_hub_repository_is_no_place_to_run_in(hub: Hub, finished_study: Finished) -> None:
    done = CliRunner().invoke(app, ["run", str(finished_study.spec), "--store", "hf://lab/tiny"])
    assert "is only read" in line_of(done)
