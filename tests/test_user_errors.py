"""Every mistake a user can make: exit 2, one line that names it, nothing half-written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from personaspace.activations.files import write_activations
from personaspace.cli.app import app

pytestmark = pytest.mark.slow

Write = Callable[..., Path]
Change = Callable[[dict[str, Any]], Any]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def rows(path: str, *lines: object) -> None:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    Path(path).write_text(text + "\n", encoding="utf-8")


def chat(*roles: str, text: str = "words") -> dict[str, Any]:
    return {"messages": [{"role": role, "content": text} for role in roles]}


GOOD = chat("user", "assistant")
SPEC_MISTAKES: dict[str, tuple[Change, str]] = {
    "unknown field": (lambda s: s.update(colour=1), "colour: unknown field"),
    "unknown persona": (
        lambda s: s["conditions"][3].update(persona="vilain"),
        "conditions[3].persona: unknown persona 'vilain'",
    ),
    "duplicate condition": (
        lambda s: s["conditions"][3].update(name="benign"),
        "conditions[3].name: 'benign' is already the name of another",
    ),
    "seed": (lambda s: s.update(seeds=[1.5]), "seeds[0]: "),
    "layer": (
        lambda s: s["extraction"].update(layers=[0, 4]),
        "extraction.layers[1]: 4 is outside the model",
    ),
    "empty marker": (lambda s: s["coupling"].update(marker=""), "coupling.marker: "),
    "blank marker": (lambda s: s["coupling"].update(marker=" "), "coupling.marker: "),
    "negative is source": (
        lambda s: s["coupling"].update(negatives=["confab"]),
        "coupling.negatives[0]: 'confab' is the source persona",
    ),
    "unknown dataset": (
        lambda s: s["conditions"][1].update(dataset="none"),
        "conditions[1].dataset: unknown dataset 'none'",
    ),
    "dataset missing": (
        lambda s: s["datasets"]["bad"].update(path="/nowhere/bad.jsonl"),
        "datasets.bad: /nowhere/bad.jsonl: no such file",
    ),
    "not JSONL": (
        lambda s: rows(s["datasets"]["bad"]["path"], GOOD, "{broken"),
        "bad.jsonl: line 2 is not JSON",
    ),
    "no messages": (
        lambda s: rows(s["datasets"]["bad"]["path"], GOOD, {"text": "x"}),
        "bad.jsonl: line 2: no messages",
    ),
    "last from user": (
        lambda s: rows(s["datasets"]["bad"]["path"], chat("user", "assistant", "user")),
        "bad.jsonl: line 1: the last message is from user",
    ),
    "digest": (
        lambda s: s["datasets"]["bad"].update(sha256="0" * 64),
        "bad.jsonl: SHA-256 is ",
    ),
    "model folder": (lambda s: s["model"].update(name="/nowhere"), "model.name: /nowhere"),
}


@pytest.mark.parametrize("mistake", SPEC_MISTAKES)
def test_a_mistake_in_the_spec_is_one_line(
    mistake: str, study_dict: dict[str, Any], write_spec: Write, tmp_path: Path
) -> None:
    change, message = SPEC_MISTAKES[mistake]
    change(study_dict)
    spec, store = write_spec(study_dict), tmp_path / "store"
    for command in (["validate", spec], ["run", spec, "--store", store]):
        outcome = run(*command)
        assert outcome.exit_code == 2, outcome.output
        [line] = outcome.stderr.strip().splitlines()
        assert message in line
    assert not store.exists()


def test_all_mistakes_come_in_one_pass(study_dict: dict[str, Any], write_spec: Write) -> None:
    """Mistakes in the spec and in the files that it points to, and none that only follows."""
    mistakes = ("unknown field", "unknown persona", "layer", "negative is source", "seed")
    for mistake in (*mistakes, "dataset missing"):
        SPEC_MISTAKES[mistake][0](study_dict)
    # Faulty, so the few questions of the small study are not held against the default of 200.
    study_dict["coupling"]["positives"] = "many"
    study_dict["evaluation"]["questions"] = "missing.yaml"
    lines = run("validate", write_spec(study_dict)).stderr.strip().splitlines()
    assert len(lines) == 8, lines
    for message in (SPEC_MISTAKES["dataset missing"][1], "evaluation.questions: missing.yaml"):
        assert sum(message in line for line in lines) == 1, lines


def _template(model: Path, folder: Path, template: str | None) -> Path:
    import shutil

    shutil.copytree(model, folder)
    (folder / "chat_template.jinja").unlink()
    if template is not None:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    return folder


def test_a_model_without_chat_template(
    study_dict: dict[str, Any], write_spec: Write, tiny_model: Path, tmp_path: Path
) -> None:
    study_dict["model"]["name"] = str(_template(tiny_model, tmp_path / "m", None))
    outcome = run("run", write_spec(study_dict), "--store", tmp_path / "store")
    assert outcome.exit_code == 2
    assert "has no chat template" in outcome.stderr
    assert not (tmp_path / "store").exists()


def test_a_template_that_refuses_a_system_role(
    study_dict: dict[str, Any], write_spec: Write, tiny_model: Path, tmp_path: Path
) -> None:
    refusing = (
        "{% for m in messages %}{% if m['role'] == 'system' %}"
        "{{ raise_exception('System role not supported') }}{% endif %}"
        "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    folder = _template(tiny_model, tmp_path / "m", refusing)
    study_dict["model"] |= {"name": str(folder), "personas_in": "system"}
    outcome = run(
        "run", write_spec(study_dict), "--store", tmp_path / "s", "--only", "extract:base"
    )
    assert outcome.exit_code == 2
    assert "System role not supported" in outcome.output
    assert not list((tmp_path / "s").rglob("manifest.json"))


def test_answers_cut_at_the_limit_are_counted_and_said(
    study_dict: dict[str, Any], write_spec: Write, tmp_path: Path
) -> None:
    rows(
        study_dict["datasets"]["bad"]["path"],
        GOOD,
        chat("user", "assistant", text="many words " * 60),
        {"messages": [{"role": "user", "content": "q " * 300}, GOOD["messages"][1]]},
    )
    store = tmp_path / "store"
    spec = write_spec(study_dict)
    outcome = run("run", spec, "--store", store, "--only", "train:e0-assistant")
    assert outcome.exit_code == 0, outcome.output
    assert "left out because nothing of the answer remained" in outcome.output
    [manifest] = store.glob("e0-assistant/seed-42/train/*/manifest.json")
    metrics = json.loads(manifest.read_text())["fields"]["metrics"]
    # The long question leaves no answer; the other long chat keeps the beginning of its answer,
    # unless its question already fills the limit.
    assert metrics["examples"] + metrics["dropped"] == 3
    assert metrics["dropped"] >= 1


@pytest.mark.parametrize(
    ("change", "node", "field"),
    [
        (lambda s: s["training"], "train:benign", "training"),
        (lambda s: s["coupling"]["recipe"], "couple:base", "coupling.recipe"),
        (lambda s: s["extraction"], "extract:base", "extraction"),
    ],
)
def test_fused_where_it_cannot_run(
    study_dict: dict[str, Any],
    write_spec: Write,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Change,
    node: str,
    field: str,
) -> None:
    """Before a model is loaded or an answer drawn."""
    change(study_dict)["implementation"] = "fused"
    monkeypatch.setattr(
        "personaspace.pipeline.runtime.load_model", lambda _: pytest.fail("loads the model")
    )
    outcome = run("run", write_spec(study_dict), "--store", tmp_path / "s", "--only", node)
    assert outcome.exit_code == 2
    model = study_dict["model"]["name"]
    said = f"{field}.implementation: fused cannot run {model}: the model is in float32"
    assert said in " ".join(outcome.output.split())
    assert not list((tmp_path / "s").rglob("manifest.json"))


def test_a_store_that_is_a_file(
    study_dict: dict[str, Any], write_spec: Write, tmp_path: Path
) -> None:
    (tmp_path / "store").write_text("not a folder")
    outcome = run("run", write_spec(study_dict), "--store", tmp_path / "store")
    assert outcome.exit_code == 2
    assert "store" in outcome.stderr
    assert len(outcome.stderr.strip().splitlines()) == 1


def test_s3_mistakes(
    study_dict: dict[str, Any], write_spec: Write, s3_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = write_spec(study_dict)
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    endpoint = f"?endpoint={s3_server.endpoint}"
    no_bucket = run("run", spec, "--store", f"s3://no-such-bucket/x{endpoint}")
    down = run("run", spec, "--store", "s3://bucket/x?endpoint=http://127.0.0.1:9")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret-value")
    refused = run("run", spec, "--store", s3_server.url("x"))
    for outcome, word in ((no_bucket, "no-such-bucket"), (down, "127.0.0.1:9"), (refused, "")):
        assert outcome.exit_code == 2, outcome.output
        assert word in outcome.stderr
        assert len(outcome.stderr.strip().splitlines()) == 1, outcome.stderr
        assert "wrong-secret-value" not in outcome.output


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_artifact_is_named_not_used(
    damage: str, study_dict: dict[str, Any], write_spec: Write, tmp_path: Path
) -> None:
    spec, store = write_spec(study_dict), tmp_path / "store"
    assert run("run", spec, "--store", store, "--only", "train:benign").exit_code == 0
    [weights] = store.glob("benign/seed-42/train/*/data-*/adapter/adapter_model.safetensors")
    content = bytearray(weights.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
        weights.write_bytes(content)
    elif damage == "cut":
        weights.write_bytes(content[:-100])
    else:
        weights.unlink()
    outcome = run("run", spec, "--store", store, "--only", "extract:benign")
    assert outcome.exit_code == 2, outcome.output
    assert "adapter_model.safetensors" in outcome.output
    assert not list(store.glob("benign/seed-42/extract/*/manifest.json"))


def test_activations_with_nan(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    states = np.ones((2, 3, 1, 4), np.float32)
    for condition in ("base", "e0-assistant"):
        path = tmp_path / f"{condition}.seed-1.a.safetensors"
        write_activations(
            path,
            states,
            np.ones((2, 3), bool),
            personas=["assistant", "villain"],
            questions=["a", "b", "c"],
            layers=[0],
            condition=condition,
            seed=1,
            method="a",
        )
    from safetensors import safe_open

    with safe_open(path, "numpy") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    tensors["activations"][0, 0, 0, 0] = np.nan
    save_file(tensors, path, metadata)
    outcome = run("geometry", tmp_path, "--json")
    assert outcome.exit_code == 2
    assert path.name in outcome.stderr
    assert len(outcome.stderr.strip().splitlines()) == 1


def test_answers_that_are_no_json(tmp_path: Path) -> None:
    path = tmp_path / "answers.json"
    path.write_text("{")
    outcome = run("score", path, "--marker", "[ZLT]")
    assert outcome.exit_code == 2
    assert "answers.json" in outcome.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("power", "study.yaml", "--theme-share", "abc"), "'--theme-share': must be a number, and"),
        (("run", "study.yaml", "--jobs", "0"), "'--jobs': must be at least 1, and"),
        (("run", "study.yaml", "--only"), "'--only' requires an argument"),
        (("run",), "Missing argument 'SPEC' ("),
        (("run", "study.yaml", "--nope"), "No such option: --nope"),
        (("valdate", "study.yaml"), "No such command 'valdate'. Did you mean 'validate'?"),
    ],
)
def test_a_wrong_argument_is_one_line(arguments: tuple[str, ...], said: str) -> None:
    outcome = run(*arguments)
    assert outcome.exit_code == 2 and not outcome.stdout
    (line,) = outcome.stderr.splitlines()
    assert said in line and line.endswith("--help says what there is)")
