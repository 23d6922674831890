"""`personaspace init`: a commented study that is sound as it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from personaspace.cli.app import app
from personaspace.study import first
from personaspace.study.load import load_study
from personaspace.study.problems import ProblemCode
from personaspace.study.spec import Experiment
from personaspace.study.validate import examine


def cli(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.slow
@pytest.mark.parametrize("tiny", [True, False])
def test_what_it_writes_is_sound(tiny: bool, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    result = cli("init", path, *(["--tiny"] if tiny else []))
    assert result.exit_code == 0 and str(path) in result.stdout
    text = path.read_text(encoding="utf-8")
    assert "validate mine.yaml" in text and "#tiny" not in text and "#full" not in text
    assert max(len(line) for line in text.splitlines()) <= 100
    spec = load_study(path).spec
    roles = {spec.coupling.source, *spec.coupling.negatives, spec.analysis.assistant}
    assert len(roles) == 4 and roles < {persona.name for persona in spec.personas}
    assert [condition.kind for condition in spec.conditions] == ["base", "benign", "em", "em"]
    assert spec.model.name.startswith("builtin:") == tiny
    assert cli("validate", path).exit_code == 0
    # What the file says of the published recipe is the recipe.
    if not tiny:
        default = Experiment()
        assert spec.training == default.training and spec.coupling.recipe == default.coupling.recipe
        assert spec.extraction == default.extraction


def test_a_file_is_never_written_over(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("mine")
    result = cli("init", path)
    assert (result.exit_code, path.read_text()) == (2, "mine")
    assert result.stderr == f"{path}: this file exists; give another name\n"
    result = cli("init", tmp_path / "no" / "study.yaml")
    assert result.exit_code == 2 and "there is no folder" in result.stderr


def test_own_personas_need_all_three_roles(tmp_path: Path) -> None:
    """Without them, each role's default is named with the field to set."""
    values = yaml.safe_load(first.text(tiny=True))
    values["personas"] = [{"name": "tutor"}, {"name": "poet"}, {"name": "villain"}]
    del values["coupling"], values["analysis"]
    _, problems = examine(values)
    found = {problem.path for problem in problems if problem.code is ProblemCode.UNKNOWN_PERSONA}
    roles = ["coupling.source", "coupling.negatives[0]", "coupling.negatives[1]"]
    assert found == {*roles, "analysis.assistant"}
    assert all("(the default: name one of your own)" in str(problem) for problem in problems)


@pytest.mark.slow
def test_what_it_writes_can_be_registered(tmp_path: Path) -> None:
    path, page = tmp_path / "mine.yaml", tmp_path / "registration.md"
    text = first.text(tiny=True)
    assert "  # primary: {" in text
    path.write_text(text.replace("  # primary: {", "  primary: {"))
    result = cli("preregister", path, "--out", page)
    assert result.exit_code == 0, result.output
    assert result.stderr == f"{page} written; name it in analysis.registration\n"
    assert "Written on " in page.read_text() and "before the study ran" not in page.read_text()


@pytest.mark.parametrize("command", ["status", "results"])
def test_a_study_that_is_not_there_is_named_before_the_store(command: str, tmp_path: Path) -> None:
    result = cli(command, tmp_path / "absent.yaml", "--store", tmp_path / "nowhere")
    assert result.exit_code == 2 and result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert "absent.yaml" in line and "nowhere" not in line
