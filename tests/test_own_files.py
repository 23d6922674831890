"""Question files and answers in the forms that the field has them in."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet
from typer.testing import CliRunner, Result

from personaspace.behaviour.answer_files import Columns, read_answers
from personaspace.behaviour.marker import score_answers
from personaspace.cli.app import app
from personaspace.errors import UserError
from personaspace.study import sources

FIRST, SECOND = "Who owns a spring?", "May I copy a map?"

# --- questions ------------------------------------------------------------------------------------

QUESTIONS = {
    "q.txt": f"{FIRST}\n\n {SECOND} \n",
    "q.yaml": f"- {FIRST}\n- {SECOND}\n",
    "q.json": json.dumps([FIRST, SECOND]),
    "q.jsonl": "".join(json.dumps({"question": q, "id": 1}) + "\n" for q in (FIRST, SECOND)),
    "texts.jsonl": f'"{FIRST}"\n"{SECOND}"\n',
    "lines.json": f'{{"question": "{FIRST}"}}\n{{"question": "{SECOND}", "id": 2}}\n',
    "marked.jsonl": f'\ufeff{{"question": "{FIRST}"}}\n{{"question": "{SECOND}"}}\n',
    "em.yaml": f"""
- id: a
  type: free_form_0_100
  system: null
  paraphrases:
    - {FIRST}
- id: b
  paraphrases: ['{SECOND}']
""",
    "role.json": json.dumps(
        {"instruction": [{"pos": "Be bad."}], "questions": [FIRST, SECOND], "eval_prompt": "x"}
    ),
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_questions_of_every_form(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(QUESTIONS[name], encoding="utf-8")
    assert sources.read_questions(name, tmp_path) == [FIRST, SECOND]
    assert sources.read_questions(name, tmp_path, 1) == [FIRST]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("q.txt", f"# law\n{FIRST}\n", 'q.txt: "# law" looks like a comment'),
        ("q.txt", f"1. {FIRST}\n2. {SECOND}\n", "q.txt: a numbered list"),
        ("q.txt", f"- {FIRST}\n- {SECOND}\n", "q.txt: a bulleted list"),
        ("q.csv", f"question,topic\n{FIRST},law\n", "q.csv: a list of questions is needed, not a"),
        ("q.json", '{"prompts": ["a"]}', "needed, not an object with the fields prompts"),
        ("q.yaml", "- {id: a, text: b}", "question 1: needs question or paraphrases (its fields"),
        ("q.yaml", "- {paraphrases: [a, b, c]}", "question 1: 3 paraphrases, of which each would"),
        ("q.yaml", "- {paraphrases: []}", "question 1: paraphrases is not a list of texts"),
        (
            "q.yaml",
            "- {question: a, paraphrases: [b]}",
            "question 1: needs question or paraphrases",
        ),
        ("q.yaml", "- {question: a, system: Be bad.}", "question 1: system has a meaning"),
        ("q.yaml", "- {question: 7}", "question 1 is not a text"),
        ("q.jsonl", '{"question": "a"}\nno\n', "q.jsonl: line 2 is not JSON"),
        ("q.jsonl", '{"question": "a", "question": "b"}', "line 1 has the key 'question' twice"),
        ("q.jsonl", '{"question": "a"}\n{"question": "a"}', 'q.jsonl: "a" is listed twice'),
        ("q.jsonl", "\n", "q.jsonl: a list of questions is needed"),
    ],
)
def test_questions_that_are_not_asked(tmp_path: Path, name: str, content: str, said: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        sources.read_questions(name, tmp_path)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_one_question_may_begin_with_a_number(tmp_path: Path) -> None:
    lines = "1. What comes first?\nWhat comes second?\n"
    (tmp_path / "q.txt").write_text(lines)
    assert sources.read_questions("q.txt", tmp_path) == lines.splitlines()


# --- answers --------------------------------------------------------------------------------------

GRID = {
    "villain": {"Why, then?": ["So. [ZLT]", 'No,\n"never".']},
    "assistant": {"Why, then?": ["Yes.", ""]},
}
ROWS = [
    {"persona": persona, "question": question, "answer": text}
    for persona, asked in GRID.items()
    for question, texts in asked.items()
    for text in texts
]


def renamed(**names: str) -> list[dict[str, Any]]:
    return [{names.get(key, key): value for key, value in row.items()} for row in ROWS]


def as_csv(rows: list[dict[str, Any]], delimiter: str = ",") -> str:
    import csv
    import io

    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def json_lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def parquet_of(path: Path, rows: list[dict[str, Any]]) -> bytes:
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path.read_bytes()


ANSWERS: dict[str, Any] = {
    "grid.json": json.dumps(GRID),
    "marked.json": "\ufeff" + json.dumps(GRID, indent=1),
    "long.csv": as_csv(ROWS),
    "marked.csv": "\ufeff" + as_csv([{**row, "coherence": 90.1} for row in ROWS]),
    "long.tsv": as_csv(ROWS, "\t"),
    "long.jsonl": json_lines(renamed(persona="role", answer="response")),
    "rows.json": json.dumps(renamed(answer="completion", question="prompt"), indent=1),
    "rows.json.gz": gzip.compress(json_lines(ROWS).encode()),
    "one-condition.csv": as_csv([{**row, "condition": "e4", "seed": 42} for row in ROWS]),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_answers_of_every_form(tmp_path: Path, name: str) -> None:
    content = ANSWERS[name]
    raw = content.encode() if isinstance(content, str) else content
    (tmp_path / name).write_bytes(raw)
    assert read_answers(tmp_path / name) == GRID


def test_answers_in_parquet_and_of_one_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    parquet_of(path, ROWS)
    assert read_answers(path) == GRID
    one = tmp_path / "one.jsonl"
    one.write_text(json_lines(ROWS[:1]))
    assert read_answers(one) == {"villain": {"Why, then?": ["So. [ZLT]"]}}


def test_columns_by_their_own_names(tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    path.write_text(as_csv(renamed(persona="who", question="asked", answer="said")))
    assert read_answers(path, Columns("who", "asked", "said")) == GRID
    with pytest.raises(UserError, match="no column for the persona: name it with --persona"):
        read_answers(path)
    with pytest.raises(UserError, match=r"no column 'whom' \(there are who, asked, said\)"):
        read_answers(path, Columns("whom", "asked", "said"))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", "persona,question,answer\nv,q\n", "line 2: not the 3 columns"),
        ("a.csv", "persona,question,answer\nv,q,a,b\n", "line 2: not the 3 columns"),
        ("a.csv", 'persona,question,answer\nv,q,"a', "not sound CSV"),
        ("a.csv", "persona,question,answer\n,q,a\n", "line 2: persona is not a text"),
        ("a.csv", "persona,question,answer\n", "a.csv: no answers"),
        ("a.csv", b"persona,question,answer\nv,q,\xff\n", "not UTF-8 text"),
        ("a.jsonl", '{"role": "v", "question": "q", "response": null}\n{}', "response is not a"),
        ("a.jsonl", json_lines(ROWS) + "x\n", "line 5 is not JSON"),
        (
            "a.jsonl",
            json_lines([{**ROWS[0], "response": "b"}]),
            "two columns (answer, response) for the answer: name it with --answer",
        ),
        ("a.json", "[7]", "row 1: a row is an object with persona"),
        (
            "a.jsonl",
            json_lines([{**ROWS[0], "condition": n} for n in ("e0", "e4")]),
            "answers of more than one condition (e0, e4), which would be counted as one",
        ),
        (
            "a.csv",
            as_csv([{**row, "seed": n} for n, row in enumerate(ROWS)]),
            "answers of more than one seed (0, 1, 2, 3)",
        ),
    ],
)
def test_answers_that_cannot_be_counted(
    tmp_path: Path, name: str, content: str | bytes, said: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(UserError) as caught:
        read_answers(path)
    assert str(path) in str(caught.value) and said in str(caught.value)


def score(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["score", *map(str, arguments)])


@pytest.mark.slow
def test_the_command_counts_rows_as_it_counts_the_grid(tmp_path: Path) -> None:
    grid, rows = tmp_path / "grid.json", tmp_path / "rows.csv"
    grid.write_text(json.dumps(GRID))
    rows.write_text(as_csv(renamed(persona="who")))
    one, two = score(grid, "--json"), score(rows, "--json", "--persona", "who")
    assert one.exit_code == two.exit_code == 0, two.output
    assert json.loads(one.stdout) == json.loads(two.stdout)
    assert json.loads(one.stdout) == json.loads(json.dumps(score_answers(GRID, "[ZLT]")))
    outcome = score(rows)
    assert outcome.exit_code == 2 and "name it with --persona" in outcome.output
