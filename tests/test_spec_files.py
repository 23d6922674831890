"""Files that hold a study or its questions, and the schema of a study."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from conftest import tiny_study
from spec_edits import problems, put
from typer.testing import CliRunner

from personaspace.cli.app import app
from personaspace.cluster.values import Values
from personaspace.errors import SpecErrors, UserError
from personaspace.study import validate
from personaspace.study.load import load_study, resolve
from personaspace.study.problems import ProblemCode as Code
from personaspace.study.spec import Experiment

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.yaml"))


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def refused(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        validate.load_spec(path)
    return str(caught.value)


def test_a_helm_values_file_is_a_spec(tmp_path: Path, study_dict: dict[str, Any]) -> None:
    whole = {"image": {"tag": "1"}, "experiment": study_dict, "queue": {"name": "a"}}
    path = write(tmp_path, "values.yaml", yaml.safe_dump(whole))
    assert validate.load_spec(path) == Experiment.model_validate(study_dict)
    whole["experiment"]["seeds"] = ["x"]
    path = write(tmp_path, "values.yaml", yaml.safe_dump(whole))
    assert refused(path) == "seeds[0]: must be a whole number (got 'x')"


def test_a_study_with_an_experiment_beside_it_is_refused(
    tmp_path: Path, study_dict: dict[str, Any]
) -> None:
    """Only the `experiment` of a chart's values is used: all of the study would be lost."""
    whole = study_dict | {"experiment": {"rerun": [{"stage": "couple"}]}}
    path = write(tmp_path, "study.yaml", yaml.safe_dump(whole, sort_keys=False))
    assert refused(path) == (
        f"{path}: experiment: stands beside {', '.join(study_dict)}: a file is a study or a "
        "chart's values, not both"
    )
    values = {"experiment": study_dict, "seeds": [1], "queue": {"name": "a"}}
    path = write(tmp_path, "values.yaml", yaml.safe_dump(values))
    assert "experiment: stands beside seeds: " in refused(path)
    path = write(tmp_path, "values.yaml", "experiment: none\nqueue: {name: a}\n")
    assert refused(path) == f"{path}: experiment: a study is a mapping of fields"


def test_no_field_of_a_study_is_a_value_of_the_chart() -> None:
    """Else it could not be told which of both a file is."""
    values = {field.alias or name for name, field in Values.model_fields.items()}
    assert "experiment" in values
    assert not values & set(Experiment.model_fields)


def test_json_is_a_spec_too(tmp_path: Path, study_dict: dict[str, Any]) -> None:
    study_dict["figures"] = {"title": "Größe 🙂"}
    path = write(tmp_path, "spec.json", json.dumps(study_dict))
    assert validate.load_spec(path) == Experiment.model_validate(study_dict)
    assert validate.load_spec(path).figures.title == "Größe 🙂"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: a\nname: b\n", "duplicate key 'name' (line 2, column 1)"),
        ("training:\n  rank: 8\n  alpha: 4\n  rank: 16\n", "duplicate key 'rank' (line 4"),
        ("conditions:\n- {name: base, name: b}\n", "duplicate key 'name' (line 2"),
        ("name: [a\n", "not valid YAML"),
        ("name: a: b\n", "not valid YAML"),
        ("name: *x\n", "not valid YAML: found undefined alias 'x'"),
        ("name: !!python/object:os.system a\n", "could not determine a constructor"),
        ("name: \x07\n", "not valid YAML"),
        pytest.param("[" * 3000, "nested too deeply", marks=pytest.mark.slow),
        ('name: "\\ud800"\n', "half of a surrogate pair"),
        (b"name: \xff\xfe\n", "not UTF-8 text (byte 6)"),
    ],
)
def test_what_is_not_yaml_is_said_in_one_line(tmp_path: Path, text: str | bytes, said: str) -> None:
    path = write(tmp_path, "bad.yaml", text)
    message = refused(path)
    assert str(path) in message and said in message
    assert "\n" not in message


def test_anchors_and_merges_may_be_used(tmp_path: Path) -> None:
    text = """
        training: &recipe {rank: 8, alpha: 4, warmup: 0.0}
        coupling: {recipe: {<<: *recipe, rank: 16}}
    """
    spec = validate.load_spec(write(tmp_path, "merge.yaml", text))
    assert (spec.training.rank, spec.training.alpha) == (8, 4)
    assert (spec.coupling.recipe.rank, spec.coupling.recipe.alpha) == (16, 4)
    # A merge of a merge, looked at from above before it is looked at itself.
    text = """
        conditions:
        - {name: base}
        - &em {name: e0, dataset: instructions, label: a}
        - deep: {er: &own {<<: *em, name: e1}}
        training: {<<: *own}
    """
    message = refused(write(tmp_path, "merge.yaml", text))
    assert "twice" not in message and "training.label: unknown field" in message
    text = "training: &r {rank: 8}\ncoupling: {recipe: {<<: *r, alpha: 2, alpha: 3}}\n"
    assert "duplicate key 'alpha'" in refused(write(tmp_path, "merge.yaml", text))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert "absent.yaml: no such file" in refused(tmp_path / "absent.yaml")
    assert "cannot be read: Is a directory" in refused(tmp_path)


QUESTIONS = ["How high?", "What now, “then”?", "🙂 or not?"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("q.txt", "\n".join(["", *QUESTIONS, "  "])),
        ("q.txt", "\ufeff" + "\r\n".join(QUESTIONS)),
        ("q.yaml", "# why\n" + "".join(f"- {q}\n" for q in QUESTIONS)),
        ("q.yaml", yaml.safe_dump(QUESTIONS)),
        ("q.json", json.dumps(QUESTIONS)),
        ("q.json", json.dumps(QUESTIONS, indent=2, ensure_ascii=False)),
    ],
    ids=["text", "text of Windows", "YAML", "YAML escapes", "JSON escapes", "JSON"],
)
def test_questions_from_files_of_each_kind(
    tmp_path: Path, study_dict: dict[str, Any], name: str, content: str
) -> None:
    write(tmp_path, name, content)
    # Relative to the spec, not to where the command runs.
    study_dict["coupling"]["questions"] = study_dict["evaluation"]["questions"] = name
    study_dict["extraction"]["questions"] = str(tmp_path / name)
    loaded = resolve(Experiment.model_validate(study_dict), tmp_path)
    assert loaded.coupling_questions == loaded.extraction_questions == QUESTIONS
    study_dict["extraction"]["limit"] = 2
    loaded = resolve(Experiment.model_validate(study_dict), tmp_path)
    assert loaded.extraction_questions == QUESTIONS[:2]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("q.txt", "\n \n", "q.txt: a list of questions is needed"),
        ("q.yaml", "a: b", "q.yaml: a list of questions is needed"),
        ("q.yaml", "- a\n- 3\n", "q.yaml: question 2 is not a text"),
        ("q.yaml", "- a\n- b\n- a\n", 'q.yaml: "a" is listed twice'),
        ("q.json", '["a", "b"', "q.json: not valid JSON"),
        ("q.json", None, "q.json: no such file"),
        ("builtin:nothing", None, "builtin:nothing: no such built-in; there are"),
        ("builtin:questions-couplin", None, "builtin:questions-couplin: no such built-in; did you"),
    ],
)
def test_questions_that_are_no_questions(
    tmp_path: Path, study_dict: dict[str, Any], name: str, content: str | None, said: str
) -> None:
    if content is not None:
        write(tmp_path, name, content)
    study_dict["coupling"]["questions"] = name
    with pytest.raises(SpecErrors) as caught:
        resolve(Experiment.model_validate(study_dict), tmp_path)
    (problem,) = caught.value.problems
    assert (problem.path, problem.code) == ("coupling.questions", Code.INPUT)
    assert problem.message.startswith(said)


def test_all_inputs_are_looked_at_before_anything_is_said(
    tmp_path: Path, study_dict: dict[str, Any]
) -> None:
    study_dict["datasets"]["bad"]["path"] = "absent.jsonl"
    study_dict["datasets"]["good"]["sha256"] = "0" * 64
    study_dict["extraction"]["questions"] = "absent.txt"
    study_dict["evaluation"]["unseen_questions"] = study_dict["evaluation"]["questions"] = ["Why?"]
    study_dict["coupling"]["samples"] = 1
    with pytest.raises(SpecErrors) as caught:
        resolve(Experiment.model_validate(study_dict), tmp_path)
    assert [(problem.path, problem.code) for problem in caught.value.problems] == [
        ("extraction.questions", Code.INPUT),
        ("evaluation.unseen_questions", Code.SEEN_QUESTION),
        ("coupling.samples", Code.TOO_FEW_ANSWERS),
        ("datasets.bad", Code.INPUT),
        ("datasets.good", Code.INPUT),
    ]


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    result = CliRunner().invoke(app, ["schema"])
    assert result.exit_code == 0
    schema = json.loads(result.stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_the_schema_takes_the_defaults_and_every_example(
    validator: jsonschema.Draft202012Validator, tiny_model: Path, tmp_path: Path
) -> None:
    validator.validate(Experiment().model_dump(mode="json"))
    validator.validate({})
    validator.validate(tiny_study(tiny_model, tmp_path))
    assert EXAMPLES
    for path in EXAMPLES:
        validator.validate(yaml.safe_load(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("colour", "red"),
        ("training.speed", 1),
        ("coupling.recipe.speed", 1),
        ("conditions[3].personas", "villain"),
        ("personas[0].text", "a"),
        ("datasets.bad.sha", "a"),
        ("seeds", ["x"]),
        ("coupling.marker", ""),
        ("extraction.layers", [-1]),
        ("name", "Caps"),
    ],
)
def test_the_schema_refuses_what_the_program_refuses(
    validator: jsonschema.Draft202012Validator, study_dict: dict[str, Any], path: str, value: Any
) -> None:
    assert validator.is_valid(study_dict)
    put(path, value)(study_dict)
    assert not validator.is_valid(study_dict)
    assert problems(study_dict)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_the_examples_are_sound(path: Path) -> None:
    loaded = load_study(path)
    assert loaded.chats and loaded.unseen
