"""What is written from the models is fresh, and what the pages promise exists."""

from __future__ import annotations

import json
import re
from pathlib import Path

from typer.testing import CliRunner

from personaspace.cli.app import app
from personaspace.study import spec_page
from personaspace.study.spec import Experiment

ROOT = Path(__file__).parents[1]


def test_schema_and_reference_page_are_fresh() -> None:
    written = json.loads((ROOT / "docs" / "spec.schema.json").read_text(encoding="utf-8"))
    assert written == Experiment.model_json_schema(), "run `make schema`"
    assert (ROOT / "docs" / "spec.md").read_text(encoding="utf-8") == spec_page.markdown()


def test_readme_names_commands_and_targets_that_exist() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    calls = r"^personaspace (\w+) (?:study.yaml|answers.json|folder)"
    named = set(re.findall(calls, readme, flags=re.MULTILINE))
    assert named >= {"validate", "run", "status", "results", "report", "score", "geometry"}
    for command in named:
        assert CliRunner().invoke(app, [command, "--help"]).exit_code == 0, command
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"`?make ([a-z-]+)", readme):
        assert f"\n{target}:" in makefile, target
    for link in re.findall(r"\]\(([^)#:]+)\)", readme):
        assert (ROOT / link).exists(), link


def test_every_setting_has_an_entry_on_the_reference_page() -> None:
    page = spec_page.markdown()
    for name, part in Experiment.model_json_schema()["$defs"].items():
        assert f"## {name}" in page
        for field in part["properties"]:
            assert f"| `{field}` |" in page, f"{name}.{field}"
