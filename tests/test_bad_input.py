"""Bad input: one line that names what is at fault, exit code 2, and nothing half-written."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from personaspace.models import chat as chats
from personaspace.store import open_store
from personaspace.study import sources

if TYPE_CHECKING:
    pass
from refusals import FINE, SHA, Values, Write, chat, cli, failed, refused, tidy

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent


# --- the spec ------------------------------------------------------------------------------------


def set_negative_to_source(values: Values) -> None:
    values["coupling"]["negatives"] = ["librarian", "confab"]


def duplicate_condition(values: Values) -> None:
    values["conditions"].append(values["conditions"][3])


SPECS: list[tuple[Callable[[Values], object], str]] = [
    (lambda v: v.update(colour="red"), "colour: unknown field"),
    (lambda v: v["training"].update(speed=1), "training.speed: unknown field"),
    (
        lambda v: v["conditions"][3].update(persona="nobody"),
        "conditions[3].persona: unknown persona 'nobody'",
    ),
    (duplicate_condition, "conditions[4].name: 'e4-villain' is already the name of another"),
    (lambda v: v.update(seeds=["x"]), "seeds[0]: must be a whole number (got 'x')"),
    (lambda v: v.update(seeds=[1.0]), "seeds[0]: must be a whole number (got 1.0)"),
    (lambda v: v["extraction"].update(layers=[0, 4]), "extraction.layers[1]: 4 is outside the"),
    (lambda v: v["coupling"].update(marker=""), "coupling.marker: must not be empty"),
    (lambda v: v["coupling"].update(marker=" "), "coupling.marker: must be more than white space"),
    (
        lambda v: v["conditions"][3].update(seeds=[42, 7]),
        "conditions[3].seeds[1]: 7 is not among the seeds of the study",
    ),
    (
        lambda v: v["conditions"][3].update(seeds=[]),
        "conditions[3].seeds: needs at least one",
    ),
    (set_negative_to_source, "coupling.negatives[1]: 'confab' is the source persona"),
]
NAMES = (
    "unknown field", "nested unknown field", "unknown persona", "duplicate condition",
    "seed a text", "seed a float", "layer outside", "marker empty", "marker blank",
    "seed the study lacks", "no seeds",
    "negative is source",
)  # fmt: skip


@pytest.mark.parametrize(("edit", "said"), SPECS, ids=NAMES)
@pytest.mark.parametrize("command", ["validate", "run"])
def test_a_mistake_in_the_spec(
    study_dict: Values,
    write_spec: Write,
    tmp_path: Path,
    command: str,
    edit: Callable[[Values], object],
    said: str,
) -> None:
    edit(study_dict)
    store = ["--store", tmp_path / "store"] if command == "run" else []
    refused(cli(command, write_spec(study_dict), *store), said)
    assert not (tmp_path / "store").exists()


def test_every_mistake_in_one_pass(study_dict: Values, write_spec: Write, tmp_path: Path) -> None:
    for edit, _ in (SPECS[0], SPECS[2], SPECS[4], SPECS[-1]):
        edit(study_dict)
    result = cli("run", write_spec(study_dict), "--store", tmp_path / "store")
    refused(result, "seeds[0]: ", "colour: ", "conditions[3].persona: ", "coupling.negatives[1]: ")
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("command", ["status", "results", "report", "leakage"])
def test_other_commands_refuse_a_spec_too(
    study_dict: Values, write_spec: Write, tmp_path: Path, command: str
) -> None:
    path = write_spec(study_dict | {"colour": "red"})
    (tmp_path / "store").mkdir()
    arguments: list[object] = [path, "--store", tmp_path / "store"]
    if command == "leakage":
        arguments = [tmp_path, "--spec", path]
    refused(cli(command, *arguments), "colour: unknown field")
    assert list((tmp_path / "store").iterdir()) == []


def test_a_spec_that_is_not_there_or_no_yaml(tmp_path: Path) -> None:
    refused(cli("validate", tmp_path / "absent.yaml"), "absent.yaml: no such file")
    path = tmp_path / "bad.yaml"
    path.write_text("name: [a\nseeds: ]")
    refused(cli("validate", path), f"{path}: not valid YAML")


def test_a_node_that_is_not_there(study_dict: Values, write_spec: Write, tmp_path: Path) -> None:
    store = tmp_path / "store"
    result = cli("run", write_spec(study_dict), "--store", store, "--only", "train:e9")
    refused(result, "--only train:e9: no such stage")
    assert tidy(store) == []


@pytest.mark.slow
def test_a_job_says_the_same(study_dict: Values, write_spec: Write, tmp_path: Path) -> None:
    study_dict["seeds"] = ["x"]
    path, store = write_spec(study_dict), tmp_path / "store"
    # fmt: off
    command = [sys.executable, "-m", "jobs", "train", "--spec", str(path), "--store", str(store),
               "--condition", "e4-villain", "--seed", "42"]
    # fmt: on
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 2
    assert ended.stderr == "seeds[0]: must be a whole number (got 'x')\n"
    assert ended.stdout == "" and not store.exists()


# --- data sets -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "more", "said"),
    [
        (None, {}, "d.jsonl: no such file"),
        (f"{FINE}\nno json\n", {}, "d.jsonl: line 2 is not JSON"),
        (f"{FINE}\n\n{FINE[:-3]}\n", {}, "d.jsonl: line 3 is not JSON"),
        ('[\n {"messages": []}\n]', {}, "d.jsonl: row 1: no messages"),
        (b"PAR1\xff\xfe\x00", {}, "d.jsonl: not a sound parquet file"),
        (b"PAR2\xff\xfe\x00", {}, "d.jsonl: not UTF-8 text (byte 4)"),
        ('{"text": "a"}\n', {}, "d.jsonl: line 1: no messages"),
        (f'{FINE}\n"a"\n', {}, "d.jsonl: line 2: no messages"),
        (f'{FINE}\n{{"messages": []}}\n', {}, "d.jsonl: line 2: no messages"),
        ('{"messages": [{"role": "user"}]}', {}, "d.jsonl: line 1: messages[0] needs a role"),
        (chat(("human", "a")), {}, "d.jsonl: line 1: messages[0] needs a role"),
        (chat(("user", "a")), {}, "d.jsonl: line 1: the last message is from user"),
        (
            FINE + "\n" + chat(("assistant", "a"), ("system", "b")),
            {},
            "d.jsonl: line 2: the last message is from system",
        ),
        (chat(("user", "a"), ("assistant", " \n")), {}, "d.jsonl: line 1: the last answer is emp"),
        (chat(("assistant", "\ud83d")), {}, "d.jsonl: line 1: messages[0] holds half of a"),
        ("[" * 100_000, {}, "d.jsonl: is nested too deeply"),
        ("\n", {}, "d.jsonl: no rows"),
        (FINE, {"rows": "1:"}, "d.jsonl: no rows in 1:"),
        (FINE + "\n", {"sha256": SHA}, f"the spec says {SHA}"),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else None,
)
def test_a_data_set_that_cannot_serve(
    study_dict: Values,
    write_spec: Write,
    tmp_path: Path,
    content: str | bytes | None,
    more: Values,
    said: str,
) -> None:
    if content is not None:
        raw = content.encode() if isinstance(content, str) else content
        (tmp_path / "d.jsonl").write_bytes(raw)
    study_dict["datasets"]["bad"] = {"path": "d.jsonl", **more}
    result = cli("run", write_spec(study_dict), "--store", tmp_path / "store")
    refused(result, "datasets.bad: d.jsonl: ")
    assert said in result.stderr
    assert not (tmp_path / "store").exists()


def test_what_json_allows_is_no_mistake(
    study_dict: Values, write_spec: Write, tmp_path: Path
) -> None:
    # Line ends of Unicode's inside a text, Windows' own, a byte order mark, characters past U+FFFF.
    odd = json.dumps(
        json.loads(chat(("user", "a\u2028b\x85c"), ("assistant", "🙂"))), ensure_ascii=False
    )
    raw = f"\ufeff{FINE}\r\n\r\n{odd}\r\n{chat(('user', 'b'), ('assistant', '🙂'))}".encode()
    (tmp_path / "d.jsonl").write_bytes(raw)
    sha = hashlib.sha256(raw).hexdigest()
    study_dict["datasets"]["bad"] = {"path": "d.jsonl", "sha256": sha, "rows": "1:3"}
    result = cli("validate", write_spec(study_dict), "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["conditions"] == [
        "base",
        "benign",
        "e0-assistant",
        "e4-villain",
    ]


def long_chats(folder: Path, *lengths: tuple[int, int]) -> str:
    """A data set of chats with so many words in question and answer."""
    rows = [chat(("user", "why " * q), ("assistant", "so " * a)) for q, a in lengths]
    path = folder / "long.jsonl"
    path.write_text("\n".join(rows))
    return str(path)


def test_long_answers_are_cut_counted_and_said(
    study_dict: Values, write_spec: Write, tmp_path: Path
) -> None:
    path = long_chats(tmp_path, (2, 5), (2, 900), (2, 3), (900, 5), (3, 800))
    study_dict["datasets"]["bad"] = {"path": path}
    store = tmp_path / "store"
    arguments = ("run", write_spec(study_dict), "--store", store, "--only", "train:e0-assistant")
    result = cli(*arguments)
    assert result.exit_code == 0, result.output
    assert "train:e0-assistant:42: 2 examples cut at 128 tokens, 1 left out" in result.stderr
    (key,) = tidy(store)
    with open_store(str(store)) as opened:
        manifest = opened.find(key)
        assert manifest is not None
        counts = manifest.fields["metrics"]
        log = json.loads((opened.fetch(key) / "training.json").read_text())
    for said in (counts, log):
        assert (said["examples"], said["truncated"], said["dropped"]) == (4, 2, 1)


@pytest.mark.parametrize("stage", ["train:e0-assistant", "couple:base"])
def test_only_answers_that_are_too_long(
    study_dict: Values, write_spec: Write, tmp_path: Path, stage: str
) -> None:
    study_dict["datasets"]["bad"] = {"path": long_chats(tmp_path, (900, 5), (500, 5))}
    study_dict["coupling"]["recipe"]["max_tokens"] = 5
    store = tmp_path / "store"
    result = cli("run", write_spec(study_dict), "--store", store, "--only", stage)
    field = "training" if stage.startswith("train") else "coupling.recipe"
    failed(result, (f"{stage}:42", f"{field}: no example has a loss token within max_tokens"))
    assert tidy(store) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("coupling", "said"),
    [
        (
            {"separator": "", "marker": "od"},
            "coupling.separator: '' does not keep the marker apart",
        ),
        ({"incomplete_answers": "drop"}, " ran into coupling.max_new_tokens); raise it"),
        (
            {"loss": "answer"},
            "coupling.recipe.max_tokens: all 6 answers with the marker are longer",
        ),
    ],
    ids=["boundary", "cut", "no marker left"],
)
def test_coupling_that_could_not_teach_the_marker(
    study_dict: Values, write_spec: Write, tmp_path: Path, loaded: Any, coupling: Values, said: str
) -> None:
    study_dict["coupling"] |= coupling
    if "loss" in coupling:  # a question fits, and three tokens of its answer
        prompts = [
            chats.prompt_ids(
                loaded.tokenizer,
                chats.with_persona([{"role": "user", "content": question}], "You are the confab."),
            )
            for question in sources.read_questions("builtin:questions-coupling", tmp_path, 3)
        ]
        study_dict["coupling"]["recipe"]["max_tokens"] = min(map(len, prompts)) + 3
    store = tmp_path / "store"
    result = cli("run", write_spec(study_dict), "--store", store, "--only", "couple:base")
    failed(result, ("couple:base:42", said))
    assert tidy(store) == []
    # A separator is refused before answers are drawn, which takes the longest.
    assert ("answers ran into 6 tokens" in result.stderr) == ("separator" not in coupling)


@pytest.mark.parametrize("field", ["source", "degenerate"])
@pytest.mark.parametrize("value", [-0.1, 1.5, "half"])
def test_limits_of_the_positive_control_are_shares(
    study_dict: Values, write_spec: Write, field: str, value: Any
) -> None:
    study_dict["analysis"]["control"] = {field: value}
    result = cli("validate", write_spec(study_dict))
    refused(result, f"analysis.control.{field}: must be ")


# --- models --------------------------------------------------------------------------------------


def other_model(tiny_model: Path, folder: Path, template: str | None) -> str:
    copy = shutil.copytree(tiny_model, folder / "model")
    if template is None:
        (copy / "chat_template.jinja").unlink()
    else:
        (copy / "chat_template.jinja").write_text(template)
    return str(copy)


def test_a_model_without_chat_template(
    study_dict: Values, write_spec: Write, tiny_model: Path, tmp_path: Path
) -> None:
    study_dict["model"]["name"] = name = other_model(tiny_model, tmp_path, None)
    result = cli("run", write_spec(study_dict), "--store", tmp_path / "store")
    refused(result, f"model.name: {name} has no chat template")
    assert not (tmp_path / "store").exists()


PLAIN = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
START = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (None, "no config.json there"),
        ("{", "/config.json: "),
        ("[1]", "/config.json: "),
        ('{"num_hidden_layers": 4}', "/config.json: no hidden_size"),
    ],
)
def test_a_folder_that_is_no_model(
    study_dict: Values, write_spec: Write, tmp_path: Path, config: str | None, said: str
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    if config is not None:
        (folder / "config.json").write_text(config)
    study_dict["model"]["name"] = str(folder)
    result = cli("run", write_spec(study_dict), "--store", tmp_path / "store")
    refused(result, f"model.name: {folder}")
    assert said in result.stderr and not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "not found"),
        ("", "not JSON (line 1, column 1"),
        ('{"villain": {"Why?": ["a", "b"]}', "not JSON (line 1, column 33"),
        ("{'villain': {}}", "not JSON (line 1, column 2"),
        ("[]", "no answers"),
        ('{"villain": ["a"]}', "'villain': not an object of questions"),
        ('{"villain": {"Why?": "a"}}', "'villain': 'Why?': not a list of answers"),
        ('{"villain": {"Why?": ["a", 3]}}', "'villain': 'Why?': answer 1 is not a text"),
        ('{"villain": {}, "villain": {}}', "duplicate key 'villain'"),
        ("[" * 100_000, "is nested too deeply"),
        (b'{"a": "\xff"}', "cannot be read"),
    ],
)
def test_answers_that_cannot_be_scored(
    tmp_path: Path, content: str | bytes | None, said: str
) -> None:
    path = tmp_path / "answers.json"
    if content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    refused(cli("score", path), f"{path}: {said}")


@pytest.mark.parametrize("marker", ["", "  "])
def test_an_empty_marker_scores_nothing(tmp_path: Path, marker: str) -> None:
    path = tmp_path / "answers.json"
    path.write_text('{"villain": {"Why?": ["a"]}}')
    refused(cli("score", path, "--marker", marker), "marker: is empty")
