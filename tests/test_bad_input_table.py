"""Bad input as one table: what is given, the line that is said, the exit code.

`pytest -s tests/test_bad_input_table.py` prints it.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file
from typer.testing import CliRunner

from personaspace.cli.app import app

pytestmark = pytest.mark.slow

Values = dict[str, Any]
#: Name, and what the line says.
Case = tuple[str, Any, str]


def given(*arguments: object, **environment: str) -> tuple[int, str]:
    """Exit code, and the one line that was said."""
    done = CliRunner(env={"COLUMNS": "300", **environment}).invoke(app, [str(a) for a in arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    lines = done.stderr.splitlines()
    return done.exit_code, lines[0] if len(lines) == 1 else "\n".join(lines)


def told(name: str, outcome: tuple[int, str], words: str, code: int = 2) -> None:
    ended, line = outcome
    print(f"{name:60.60} {ended}  {line[:160]}")
    assert ended == code, line
    assert words in line and "\n" not in line, line


# --- the spec's text -----------------------------------------------------------------------------

DEEP = "[" * 3000
BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n"
    for old, new in zip("abcdefg", "bcdefgh", strict=True)
)
MERGE = "a: &a {x: 1}\n" + "".join(
    f"{new}: &{new} {{<<: [{', '.join([f'*{old}'] * 20)}]}}\n"
    for old, new in zip("abcdef", "bcdefg", strict=True)
)
TEXTS: list[Case] = [
    ("an empty file", "", "is empty"),
    ("nothing but a comment", "# a study\n", "is empty"),
    ("null", "null\n", "is empty"),
    ("a list", "[1, 2]\n", "study.yaml: a study is a mapping of fields"),
    ("a word", "study\n", "study.yaml: a study is a mapping of fields"),
    ("an open bracket", "name: [a\n", "not valid YAML"),
    ("a tab", "name:\n\tx: 1\n", "not valid YAML"),
    ("a key twice", "name: a\nname: b\n", "duplicate key 'name'"),
    ("deep nesting", f"name: {DEEP}", "nested too deeply"),
    ("a bomb of names", BOMB, "stands for more than 1,000,000 values"),
    ("a bomb of merges", MERGE, "stands for more than 1,000,000 values"),
    ("a list that holds itself", "name: &a [*a]\n", "holds itself"),
    ("an unknown name", "name: *nobody\n", "not valid YAML"),
    ("a Python object", "name: !!python/object/apply:os.system ['true']\n", "not valid YAML"),
    ("an unknown tag", "name: !secret x\n", "not valid YAML"),
    ("NUL", 'name: "a\\0b"\n', "NUL is not a character"),
    ("half of a surrogate pair", 'name: "\\ud800"\n', "half of a surrogate pair"),
    ("a control character", "name: a\x07b\n", "not valid YAML"),
    ("5,000 digits", f"seeds: [{'9' * 5000}]\n", "a number of more than 30 digits"),
    ("10^29", "seeds: [1" + "0" * 29 + "]\n", "a whole number of more than 64 bits"),
    ("-10^29", "seeds: [-1" + "0" * 28 + "]\n", "a whole number of more than 64 bits"),
    ("400 digits of a fraction", f"training: {{dropout: 0.{'1' * 400}}}\n", "30 digits"),
    ("sixties", "training: {learning_rate: 1:30}\n", "would be read in sixties"),
    ("sixties in a slice", "datasets: {bad: {path: x, rows: 1:30}}\n", "would be read in sixties"),
    ("a date that is none", "name: 2026-99-99\n", "not valid YAML"),
    ("two documents", "name: a\n---\nname: b\n", "not valid YAML"),
    ("Latin-1", b"name: caf\xe9\n", "not UTF-8 text (byte 9)"),
    ("a picture", b"\x89PNG\r\n\x1a\n\x00\x00", "not UTF-8 text (byte 0)"),
    ("17 MB", b"#" * (17 * 2**20), "is larger than 16,777,216 bytes"),
    ("a study and a chart's values", "name: a\nexperiment: {name: b}\n", "stands beside name"),
    ("a chart's values without a study", "experiment: 3\n", "a study is a mapping of fields"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "words"), TEXTS, ids=[case[0] for case in TEXTS])
def test_the_text_of_a_spec(tmp_path: Path, name: str, text: str | bytes, words: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    told(name, given("validate", path), words)


# --- fields --------------------------------------------------------------------------------------

#: Of every number: what it never is.
NEVER: list[tuple[str, Any]] = [
    ("true", True), ("a word", "many"), ("minus one", -1), ("10^18", 10**18), ("a list", [1]),
]  # fmt: skip
NUMBERS = [
    "training.rank", "training.alpha", "training.learning_rate", "training.batch_size",
    "training.epochs", "training.max_steps", "training.row_tokens",
    "training.dropout", "training.warmup", "training.weight_decay", "training.clip_norm",
    "coupling.positives", "coupling.samples", "coupling.temperature", "coupling.top_p",
    "coupling.recipe.rank", "evaluation.samples", "evaluation.max_new_tokens",
    "extraction.limit", "generation.batch_size", "generation.gpu_memory",
    "analysis.permutations", "analysis.bootstrap", "analysis.alpha", "analysis.seed",
]  # fmt: skip
#: Rates without a largest value: what comes of them is looked at in training.
OPEN_ENDED = {
    "training.learning_rate", "training.weight_decay", "training.clip_norm", "coupling.temperature",
}  # fmt: skip
PERSONAS = [
    {"name": name, "prompt": f"You are the {name}."}
    for name in ("assistant", "villain", "librarian", "comedian", "confab", "template-default")
]
PRIMARY = {"measure": "bystander", "condition": "e4-villain", "against": "benign"}
FIELDS: list[Case] = [
    (f"{path}: {name}", (path, value), path)
    for path in NUMBERS
    for name, value in NEVER
    if not (path in OPEN_ENDED and name == "10^18")
]
FIELDS += [
    ("not a number", ("training.learning_rate", float("nan")), "training.learning_rate: "),
    ("infinity", ("training.learning_rate", float("inf")), "training.learning_rate: "),
    ("a rank beyond the model", ("training.rank", 10**6), "more than the model's width (64)"),
    ("an answer beyond the model", ("evaluation.max_new_tokens", 1024),
     "the model's 1024 positions"),
    ("a target that is not there", ("training.targets", ["q_prj"]), "did you mean 'q_proj'?"),
    ("no target", ("training.targets", []), "training.targets: "),
    ("a dose of no step", ("training.doses", [0]), "training.doses[0]: must be at least 1"),
    ("a dose twice", ("training.doses", [1, 1]), "training.doses[1]: 1 is listed twice"),
    ("a tracker twice", ("tracking", ["wandb", "wandb"]), "tracking[1]: 'wandb' is listed twice"),
    ("doses out of order", ("training.doses", [3, 1]), "training.doses[1]: 1 comes after 3"),
    ("a dose beyond the steps", ("training.doses", [1, 5]),
     "training.doses[1]: 5 is beyond the 4 steps of benign"),
    ("stages of no doses", ("training.doses_in", ["evaluate"]),
     "training: doses_in goes with doses"),
    ("no stage of doses", ("training.doses_in", ["judge"]), "training.doses_in[0]: "),
    ("own training of base", ("conditions.0.training", {"rank": 2}), "conditions[0].training: "),
    ("no step of its own", ("conditions.2.training", {"max_steps": 0}),
     "conditions[2].training.max_steps: must be at least 1"),
    ("its own rank beyond the model", ("conditions.2.training", {"rank": 65}),
     "conditions[2].training.rank: 65 is more than the model's width (64)"),
    ("a target of its own", ("conditions.2.training", {"targets": ["q_prj"]}),
     "conditions[2].training.targets[0]: "),
    ("its chats longer than a row", ("conditions.2.training", {"max_tokens": 257}),
     "conditions[2].training.max_tokens: is more than training.row_tokens (256)"),
    ("what no condition has of its own", ("conditions.2.training", {"checkpoint_every": 2}),
     "conditions[2].training: checkpoint_every is one for all conditions: it goes into training"),
    ("a reserved persona", ("personas", PERSONAS), "personas[5].name: "),
    ("a prompt twice", ("personas.1.prompt", "You are the assistant."), "personas[1].prompt: "),
    ("an empty marker", ("coupling.marker", ""), "coupling.marker: "),
    ("a seed twice", ("seeds", [1, 1]), "seeds[1]: "),
    ("no seed", ("seeds", []), "seeds: "),
    ("a layer outside", ("extraction.layers", [0, 9]), "extraction.layers[1]: "),
    ("a layer twice", ("extraction.layers", [0, 0]), "extraction.layers[1]: "),
    ("a model that is not there", ("model.name", "./nowhere"), "./nowhere: no such folder"),
    ("nobody's folder", ("model.name", "~nosuchuser/model"), "no such user's folder"),
    ("a data set in nobody's folder", ("datasets.bad.path", "~nosuchuser/x"),
     "no such user's folder"),
    ("a data set that is a folder", ("datasets.bad.path", "/"), "cannot be read: Is a directory"),
    ("a data set that never ends", ("datasets.bad.path", "/dev/zero"), "is not a regular file"),
    ("a long file name", ("datasets.bad.path", "x" * 5000), "File name too long"),
    ("a bucket without a name", ("datasets.bad.path", "s3:///x"), "datasets.bad: "),
    ("questions that never end", ("coupling.questions", "/dev/zero"), "is not a regular file"),
    ("questions in nobody's folder", ("coupling.questions", "~nosuchuser/q"),
     "no such user's folder"),
    ("a question twice", ("coupling.questions", ["a?", "a?"]), "is listed twice"),
    ("no question", ("coupling.questions", []), "coupling.questions: is empty"),
    ("a data set without a name", ("datasets.bad.path", ""), "datasets.bad: path is empty"),
    ("a question that is none", ("evaluation.questions", ["a?", ""]), "evaluation.questions"),
    ("publishing to a word", ("publish", "owner/x"), "publish: must be a mapping of fields"),
    ("publishing to nobody", ("publish", {"repo": "x"}), "publish.repo: must be a repository's"),
    ("publishing a way up", ("publish", {"repo": "o/../x"}), "publish.repo: must be a repos"),
    ("publishing to a page", ("publish", {"repo": "https://huggingface.co/o/x"}), "publish.repo: "),
    ("publishing weights", ("publish", {"repo": "o/x", "include": ["weights"]}), "include[0]: "),
    ("publishing nothing", ("publish", {"repo": "o/x", "include": []}), "publish.include: needs"),
    ("publishing twice", ("publish", {"repo": "o/x", "include": ["report"] * 2}), "listed twice"),
    ("a blank collection", ("publish", {"repo": "o/x", "collection": " "}), "publish.collection: "),
    ("a tracker alone", ("tracking", "wandb"), "write [wandb]"),
    ("an unknown tracker", ("tracking", ["wandbb"]), "tracking[0]: must be "),
    ("a tracker with settings", ("tracking", [{"wandb": 1}]), "tracking[0]: must be "),
    ("a substitute alone", ("substitutes", "s3://x/y"), "write [s3://x/y]"),
    ("a substitute of no name", ("substitutes", [""]), "substitutes[0]: must be more than white"),
    ("a substitute of a blank", ("substitutes", [" "]), "substitutes[0]: must be more than white"),
    ("a substitute twice", ("substitutes", ["lab", "./lab/"]), "[1]: './lab/' is listed twice"),
    ("a bucket twice", ("substitutes", ["s3://x/y", "s3://x/y/"]), "[1]: 's3://x/y/' is listed"),
    ("a substitute by FTP", ("substitutes", ["ftp://x"]), "unknown scheme"),
    ("half a repository", ("substitutes", ["hf://owner"]), "looks like hf://owner/name"),
    ("steering by a word", ("steering", "yes"), "steering: must be a mapping of fields"),
    ("steering nobody", ("steering", {"conditions": ["x"]}), "unknown condition 'x'"),
    ("steering a layer outside", ("steering", {"layer": 99}), "layer: 99 is not extracted"),
    ("steering by NaN", ("steering", {"doses": [float("nan")]}), "must be a finite number"),
    ("steering by 0", ("steering", {"doses": [0]}), "steering.doses: 0 is the unsteered model"),
    ("steering by 10^300", ("steering", {"doses": [1e300]}), "steering.doses: 1e+300 is not"),
    ("steering in a way", ("steering", {"modes": ["push"]}), "steering.modes[0]: must be "),
    ("steering another seed", ("steering", {"seeds": [7]}), "steering.seeds[0]: 7 is not among"),
    ("steering by nobody", ("steering", {"vectors": ["x"]}), "unknown vector 'x'"),
    ("a primary word", ("analysis.primary", "spread"), "analysis.primary: must be a mapping"),
    ("two primary ones", ("analysis.primary", [{}]), "analysis.primary: must be a mapping"),
    ("a judge by name", ("judge", "gpt"), "judge: must be a mapping of fields"),
    ("no judge", ("judge", {}), "judge.model: is required"),
    ("a judge without a scheme", ("judge", {"model": "x", "url": "host:80"}), "judge.url: is not"),
    ("a judge's password", ("judge", {"model": "x", "url": "http://u:p@h/v1"}), "judge.url: holds"),
    ("a key for its name", ("judge", {"model": "x", "key_env": "sk 1"}), "judge.key_env: must be"),
    ("a judge of nobody", ("judge", {"model": "x", "personas": ["x"]}), "unknown persona 'x'"),
    ("a gold set that is not there", ("judge", {"model": "x", "gold": "a.csv"}), "no such file"),
    ("a judge for ever", ("judge", {"model": "x", "timeout": float("inf")}), "judge.timeout: "),
    ("a judge's folder", ("judge", {"model": "./nowhere"}), "judge.model: ./nowhere: no such"),
    ("a rerun by a word", ("rerun", ["train:benign"]), "rerun[0]: must be a mapping"),
    ("log odds by a word", ("log_odds", "yes"), "log_odds: must be a mapping of fields"),
    ("a label of a list", ("conditions.2.label", ["a"]), "conditions[2].label: must be text"),
    ("a blank label", ("conditions.2.label", " "), "conditions[2].label: must be more than white"),
    ("a blank title", ("figures.title", "\t"), "figures.title: must be more than white space"),
    ("a blank nonce", ("rerun", [{"stage": "train", "nonce": " "}]), "rerun[0].nonce: must be"),
    ("a blank registration", ("analysis.registration", ""), "analysis.registration: must be more"),
    ("a blank model", ("model.name", " "), "model.name: must be more than white space"),
    ("a blank revision", ("model.revision", " "), "model.revision: must be more than white space"),
    ("a blank adapter", ("conditions.2.adapter", " "), "conditions[2].adapter: must be more than"),
    ("a blank judge", ("judge", {"model": " "}), "judge.model: must be more than white space"),
    ("a blank gold set", ("judge", {"model": "x", "gold": " "}), "judge.gold: must be more than"),
    ("a blank data set of the Hub", ("datasets.bad", {"hub": " ", "revision": "a"}),
     "datasets.bad.hub: must be more than"),
    ("a blank commit", ("datasets.bad", {"hub": "a/b", "revision": " "}), "bad.revision: must be"),
    ("a blank split", ("datasets.bad", {"hub": "a/b", "revision": "a", "split": ""}),
     "datasets.bad.split: must be more than"),
    ("no primary", ("analysis.primary", {}), "analysis.primary: is empty: it needs at least meas"),
    ("a primary of no name", ("analysis.primary", PRIMARY | {"condition": ""}),
     "analysis.primary.condition: must be lower-case"),
    ("a primary of a list", ("analysis.primary", PRIMARY | {"against": [1]}),
     "analysis.primary.against: must be text"),
    ("a primary in layers", ("analysis.primary", PRIMARY | {"layer": 1, "method": "a"}),
     "analysis.primary.layer: leakage is counted in answers and has none, nor a method"),
    ("an unknown builtin", ("evaluation.questions", "builtin:none"), "evaluation.questions: "),
]  # fmt: skip


def put(values: Values, path: str, value: Any) -> None:
    parents: Any
    *parents, last = path.split(".")
    place: Any = values
    for part in parents:
        place = (
            place[int(part) if part.isdigit() else part]
            if isinstance(place, list)
            else place.setdefault(part, {})
        )
    place[last] = value


@pytest.mark.slow
@pytest.mark.parametrize(("name", "change", "words"), FIELDS, ids=[case[0] for case in FIELDS])
def test_a_field(
    study_dict: Values, write_spec: Callable[[Values], Path], name: str, change: Any, words: str
) -> None:
    put(study_dict, *change)
    told(name, given("validate", write_spec(study_dict)), words)


# --- places --------------------------------------------------------------------------------------

STORES: list[Case] = [
    ("no store", " ", "the URL is empty"),
    ("a slash too few", "s3:/bucket/x", "two slashes"),
    ("no slash", "s3:bucket", "two slashes"),
    ("no bucket", "s3:///x", "not a bucket name"),
    ("keys in the address", "s3://key:canary@bucket/x", "not a bucket name"),
    ("an unknown option", "s3://bucket/x?colour=red", "option colour is unknown"),
    ("an endpoint without a scheme", "s3://bucket/x?endpoint=host:80", "endpoint is not a plain"),
    ("a password in the endpoint", "s3://bucket/x?endpoint=http://u:canary@h",
     "endpoint is not a plain"),
    ("patience that is none", "s3://bucket/x?patience=soon", "patience is a number"),
    ("patience of 400 digits", "s3://bucket/x?patience=" + "9" * 400, "patience is a number"),
    ("a fragment", "s3://bucket/x#y", "nothing may follow a #"),
    ("a way up", "s3://bucket/../x", "may not be a part of it"),
    ("another scheme", "ftp://host/x", "unknown scheme"),
    ("a file's address without slashes", "file:x", "two slashes"),
    ("a file's address of a host", "file://host/x", "file:///folder"),
    ("nobody's folder", "~nosuchuser/store", "no such user's folder"),
    ("a file", __file__, "is not a folder"),
    ("a device", "/dev/null", "is not a folder"),
    ("below a file", f"{__file__}/store", "is not a folder"),
    ("a name too long", "/tmp/" + "x" * 5000, "File name too long"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "url", "words"), STORES, ids=[case[0] for case in STORES])
def test_a_store(
    study_dict: Values, write_spec: Callable[[Values], Path], name: str, url: str, words: str
) -> None:
    code, line = given("run", write_spec(study_dict), "--store", url)
    assert "canary" not in line
    told(name, (code, line), words)


def test_other_places(
    study_dict: Values, write_spec: Callable[[Values], Path], tmp_path: Path
) -> None:
    spec, store = write_spec(study_dict), tmp_path / "store"
    file = tmp_path / "file"
    file.write_text("x")
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    told("a pipe", given("validate", fifo), "is not a regular file")
    told("a device", given("validate", "/dev/zero"), "is not a regular file")
    told("a folder", given("validate", tmp_path), "Is a directory")
    told("not there", given("validate", tmp_path / "absent"), "no such file")
    common = ("run", spec, "--store", store)
    told("--only ''", given(*common, "--only", ""), "--only: is empty")
    told("--only :", given(*common, "--only", ":"), "--only: is empty")
    told("--substitute ''", given(*common, "--substitute", ""), "--substitute: is empty")
    plan = (*common, "--plan", "--substitute", " ")
    told("--plan --substitute ' '", given(*plan), "--substitute: is empty")
    twice = ("--substitute", tmp_path / "lab", "--substitute", f"{tmp_path}/lab/")
    told("--substitute twice", given(*common, *twice), f"--substitute: {tmp_path}/lab/ is named")
    told("--plan so", given(*common, "--plan", *twice), f"--substitute: {tmp_path}/lab/ is named")
    told("--only nothing", given(*common, "--only", "tran"), "no such stage; did you mean 'train'?")
    told("--with-inputs alone", given(*common, "--with-inputs"), "goes with --only")
    told("--json alone", given(*common, "--json"), "goes with --plan")
    told("--out a file", given(*common, "--out", file), "is not a folder")
    told("--out below a file", given(*common, "--out", file / "x"), "is not a folder")
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    told("--out a loop of links", given(*common, "--out", loop), "loop is not a folder")
    (tmp_path / "dangling").symlink_to(tmp_path / "nobody")
    told("--out a link to nothing", given(*common, "--out", tmp_path / "dangling"), "not a folder")
    told("compare, a loop", given("compare", loop, file), "loop: cannot be read (Too many levels")
    told("status of no store", given("status", spec, "--store", ""), "the URL is empty")
    told("results of no store", given("results", spec, "--store", ""), "the URL is empty")
    told("init below a file", given("init", file / "x.yaml"), "Not a directory")
    store.mkdir(exist_ok=True)
    upkeep = ("--store", store)
    told("gc of no store", given("gc", "--store", tmp_path / "absent"), "there is no such folder")
    assert not (tmp_path / "absent").exists()
    told("gc, younger", given("gc", *upkeep, "--older-than", -1), "must be at least 0")
    told("gc, nan", given("gc", *upkeep, "--older-than", "nan"), "'nan' was given")
    told("gc, no study", given("gc", tmp_path / "absent", *upkeep), "no such file")
    told("verify up", given("verify", *upkeep, "--prefix", "../x"), "may not be a part of it")
    told("--resume a pipe", given("verify", *upkeep, "--resume", fifo), "is not a regular file")
    told("--resume a folder", given("verify", *upkeep, "--resume", tmp_path), "is not a regular")
    told("--resume below a file", given("verify", *upkeep, "--resume", file / "x"), "Not a dir")
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    known = tmp_path / "latin"
    told("--resume Latin-1", given("verify", *upkeep, "--resume", known), "not UTF-8 text (byte 3)")
    told("compare of none", given("compare"), "Missing argument 'studies'")
    told("compare, a pipe twice", given("compare", fifo, fifo), "given twice")
    told("compare, absent", given("compare", tmp_path / "a", tmp_path / "b"), "not found")
    told("register what", given("preregister", spec), "name the one comparison")
    told("publish where", given("publish", spec, *upkeep), "publish: name OWNER/NAME")
    told("power 2", given("power", spec, "--power", 2), "--power: 2 is not between 0 and 1")
    for other, words in (
        ("hf://owner", "an address of the Hub looks like"),
        ("ftp://x", "unknown scheme"),
        (file, "is not a folder"),
        (tmp_path / "absent", "there is no such folder"),
        (store, "is the store of the run itself"),
    ):
        told(f"--substitute {other}", given(*common, "--substitute", other), words)
    told("a level that is none", given("--log-level", "loud", "validate", spec), "log level 'loud'")


# --- scores and answers --------------------------------------------------------------------------

ANSWERS: list[Case] = [
    ("not JSON", "{", "not JSON"),
    ("no rows", "[]", "no answers"),
    ("not an object", "7", "not an object of personas"),
    ("no questions", '{"a": []}', "not an object of questions"),
    ("no list", '{"a": {"q": "x"}}', "not a list of answers"),
    ("no text", '{"a": {"q": [1]}}', "answer 0 is not a text"),
    ("a persona twice", '{"a": {}, "a": {}}', "duplicate key 'a'"),
    ("deep nesting", "[" * 100_000, "nested too deeply"),
    ("5,000 digits", f'{{"a": {"9" * 5000}}}', "too many digits"),
    ("half of a surrogate pair", '{"a": {"q": ["\\ud800"]}}', "half of a surrogate pair"),
    ("half of one in a name", '{"\\udfff": {"q": ["x"]}}', "half of a surrogate pair"),
    ("not UTF-8", b'{"a": "\xff"}', "not UTF-8 text (byte 7)"),
]


@pytest.mark.parametrize(("name", "text", "words"), ANSWERS, ids=[case[0] for case in ANSWERS])
def test_answers(tmp_path: Path, name: str, text: str | bytes, words: str) -> None:
    path = tmp_path / "answers.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    told(name, given("score", path), words)


def counts(hits: Any = 1, total: Any = 2, **more: Any) -> Values:
    return {"per_persona": {"villain": {"hits": hits, "total": total, **more}}}


SCORES: list[Case] = [
    ("nothing", {}, "has no per_persona"),
    ("a list", [], "has no per_persona"),
    ("more hits than answers", counts(3, 2), "hits is more than total"),
    ("a negative count", counts(-1), "hits is -1, not a count"),
    ("half a count", counts(0.5), "hits is 0.5, not a count"),
    ("10^30", counts(10**30, 10**30), "not a count"),
    ("true", counts(True), "not a count"),
    ("no answers", counts(0, 0), "has no answers"),
    ("questions that are none", counts(per_question=[]), "per_question is not an object"),
    ("questions that do not add up", counts(per_question={"q": {"hits": 0, "total": 2}}),
     "do not add up"),
    ("nobody of the study", {"per_persona": {"x": {"hits": 1, "total": 2}}}, "has no persona"),
    ("another marker", counts() | {"marker": "[X]"}, "scored with the marker '[X]'"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "words"), SCORES, ids=[case[0] for case in SCORES])
def test_scores(
    study_dict: Values,
    write_spec: Callable[[Values], Path],
    tmp_path: Path,
    name: str,
    content: Any,
    words: str,
) -> None:
    folder = tmp_path / "scores"
    folder.mkdir()
    (folder / "base.seed-42.json").write_text(json.dumps(counts() | {"marker": "[ZLT]"}))
    (folder / "benign.seed-42.json").write_text(json.dumps(content))
    told(name, given("leakage", folder, "--spec", write_spec(study_dict)), words)


def test_scores_of_a_seed_that_the_study_lacks(
    study_dict: Values, write_spec: Callable[[Values], Path], tmp_path: Path
) -> None:
    for seed in (42, 7):
        (tmp_path / f"base.seed-{seed}.json").write_text(json.dumps(counts()))
    words = "base.seed-7.json: "
    outcome = given("leakage", tmp_path, "--spec", write_spec(study_dict | {"seeds": [42]}))
    told("a seed that the study lacks", outcome, words)
    assert "no run of base with seed 7; its seeds are: 42" in outcome[1]
    (tmp_path / "base.seed-7.json").unlink()
    code, lines = given("leakage", tmp_path, "--spec", write_spec(study_dict | {"seeds": [42, 7]}))
    assert code == 0 and "base has no scores of seed 7" in lines


# --- activations ---------------------------------------------------------------------------------


def tensors(**change: Any) -> tuple[dict[str, Any], dict[str, str]]:
    values = {
        "activations": np.ones((2, 3, 2, 4), np.float32),
        "valid": np.ones((2, 3), np.bool_),
    }
    metadata = {
        "personas": json.dumps(["assistant", "villain"]),
        "questions": json.dumps(["a", "b", "c"]),
        "layers": json.dumps([0, 1]),
    }
    for name, value in change.items():
        (metadata if isinstance(value, str) else values)[name] = value
    return values, metadata


def filled(value: float) -> Any:
    return np.full((2, 3, 2, 4), value, np.float32)


def raw(header: bytes, length: int | None = None, body: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + body


ACTIVATIONS: list[Case] = [
    ("empty", b"", "not a readable safetensors file"),
    ("a word", b"activations", "not a readable safetensors file"),
    ("a header of 10^18 bytes", raw(b"{}", 10**18), "not a readable safetensors file"),
    ("a header that is no JSON", raw(b"{"), "not a readable safetensors file"),
    ("a header of deep nesting", raw(b'{"a":' + b"[" * 100_000), "not a readable safetensors file"),
    ("no tensor", raw(b"{}"), "has no tensor 'activations'"),
    ("a tensor beyond the file", raw(
        b'{"activations":{"dtype":"F32","shape":[2,3,2,4],"data_offsets":[0,192]}}'),
        "not a readable safetensors file"),
    ("a shape of 10^18", raw(
        b'{"activations":{"dtype":"F32","shape":[1000000000000000000],"data_offsets":[0,4]}}',
        body=b"\0\0\0\0"), "not a readable safetensors file"),
    ("NaN", tensors(activations=filled(np.nan)), "hold NaN or infinity"),
    ("1e38", tensors(activations=filled(1e38)), "whose squares overflow"),
    ("whole numbers", tensors(activations=np.ones((2, 3, 2, 4), np.int32)),
     "not float16 or float32"),
    ("another shape", tensors(activations=np.ones((2, 3, 2), np.float32)), "have shape [2, 3, 2]"),
    ("valid of numbers", tensors(valid=np.ones((2, 3), np.float32)), "valid is float32"),
    ("personas that are no JSON", tensors(personas="["), "is not JSON"),
    ("personas of deep nesting", tensors(personas="[" * 100_000), "cannot be read"),
    ("personas of numbers", tensors(personas="[1, 2]"), "is not a JSON list of texts"),
    ("a persona twice", tensors(personas='["a", "a"]'), "names something twice"),
    ("half of a surrogate pair", tensors(personas='["a", "\\ud800"]'), "half of a surrogate pair"),
    ("a layer of 5,000 digits", tensors(layers=f"[0, {'9' * 5000}]"), "cannot be read"),
    ("a layer of 10^30", tensors(layers=f"[0, {10**30}]"), "a number that no layer has"),
    ("a layer below 0", tensors(layers="[-1, 0]"), "a number that no layer has"),
    ("true for a layer", tensors(layers="[true, 0]"), "is not a JSON list of whole numbers"),
    ("another condition", tensors(condition="benign"), "metadata say condition 'benign'"),
    ("another seed", tensors(seed="7"), "metadata say seed '7'"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "words"), ACTIVATIONS, ids=[case[0] for case in ACTIVATIONS]
)
def test_activations(tmp_path: Path, name: str, content: Any, words: str) -> None:
    path = tmp_path / "base.seed-42.a.safetensors"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        save_file(content[0], path, content[1])
    told(name, given("geometry", tmp_path, "--permutations", 1, "--bootstrap", 1), words)


# --- the environment -----------------------------------------------------------------------------

ENVIRONMENT: list[Case] = [
    ("a level that is none", {"PERSONASPACE_LOG_LEVEL": "loud"}, "log level 'loud'"),
]


@pytest.mark.parametrize(
    ("name", "environment", "words"), ENVIRONMENT, ids=[case[0] for case in ENVIRONMENT]
)
def test_the_environment(
    study_dict: Values,
    write_spec: Callable[[Values], Path],
    name: str,
    environment: dict[str, str],
    words: str,
) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    store = "s3://bucket/x?endpoint=http://127.0.0.1:9&patience=0"
    spec = write_spec(study_dict)
    told(name, given("status", spec, "--store", store, **keys, **environment), words)


def test_there_are_enough() -> None:
    tables = (TEXTS, FIELDS, STORES, ANSWERS, SCORES, ACTIVATIONS, ENVIRONMENT)
    assert sum(map(len, tables)) >= 150
    assert yaml.safe_load("a: 1") == {"a": 1}
