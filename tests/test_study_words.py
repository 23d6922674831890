"""What commands say of a study that is not as it was, or whose personas have several wordings."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import yaml
from conftest import Finished
from typer.testing import CliRunner

from personaspace.cli.app import app
from personaspace.cli.study import wordings_in_words
from personaspace.study.load import load_study
from personaspace.study.spec import Experiment


def said(*arguments: str | Path) -> str:
    """The one line of an error."""
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 2, done.output
    (line,) = done.stderr.splitlines()
    return line


def test_results_say_whether_a_store_has_those_of_another_spec(
    finished_study: Finished, tmp_path: Path
) -> None:
    values = finished_study.values | {
        "analysis": {**finished_study.values.get("analysis", {}), "seed": 7}
    }
    (other := tmp_path / "other.yaml").write_text(yaml.safe_dump(values))
    line = said("results", other, "--store", finished_study.store)
    assert line.startswith(
        f"tiny: no results in {finished_study.store} for this spec (there are 1 "
    )
    assert "`personaspace run` brings them up to date" in line
    # Where there are none at all, nothing is said of any.
    shutil.copytree(finished_study.store, tmp_path / "store")
    shutil.rmtree(tmp_path / "store" / "aggregate")
    line = said("results", other, "--store", tmp_path / "store")
    assert "for this spec;" in line and "there are" not in line


def test_validate_counts_wordings(study_dict: dict[str, Any], write_spec: Any) -> None:
    names = [persona["name"] for persona in study_dict["personas"]]
    plain = CliRunner().invoke(app, ["validate", str(write_spec(study_dict))])
    assert plain.exit_code == 0 and "wording" not in plain.stdout
    for persona in study_dict["personas"]:
        if persona["name"] == "librarian":
            text = persona.pop("prompt")
            persona["prompts"] = [text, "You lend books."]
    path = write_spec(study_dict)
    line = wordings_in_words(load_study(path).spec)
    others = [name for name in names if name != "librarian"]
    assert line == f"personas: in 2 wordings librarian; in 1 wording {', '.join(others)}"
    told = CliRunner().invoke(app, ["validate", str(path)])
    assert told.exit_code == 0, told.output
    assert "in 2 wordings librarian" in " ".join(told.stdout.split())
    assert Experiment.model_validate(study_dict).wordings == 2
