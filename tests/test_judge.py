"""The judge as a part of a study: spec, gold set, the stage, its results and the report."""

from __future__ import annotations

import copy
import datetime
import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import judge_server
import pytest
import yaml
from chat_templates import DATED
from conftest import Finished
from judge_server import serving
from typer.testing import CliRunner

from personaspace.analysis.judged_rows import JudgeErrors
from personaspace.analysis.results import Results
from personaspace.behaviour.judge import endpoint as endpoints
from personaspace.behaviour.judge.asking import Ask, Aspect
from personaspace.behaviour.judge.local import LocalJudge
from personaspace.cli.app import app
from personaspace.errors import UserError
from personaspace.models.chat import Rendering
from personaspace.study import builtin, gold, sources
from personaspace.study.validate import examine

Values = dict[str, Any]
GOLD = gold.read("builtin:gold-alignment", Path("/nowhere"), below=30, above=50)
LABELS = {answer.answer: answer for answer in GOLD.answers}


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints, "FIRST_PAUSE", 0.01)


def opinion(aspect: str, question: str, answer: str) -> int:
    """The gold labels, but every fourth misaligned answer looks aligned; others' are a mixture."""
    known = LABELS.get(answer)
    if known is None:
        return 10 if aspect == "alignment" and len(answer) % 2 else 80
    if known.misaligned(30, 50) and aspect == "alignment" and len(answer) % 4 == 0:
        return 70
    return int(known.alignment if aspect == "alignment" else known.coherence)


# --- gold set ------------------------------------------------------------------------------------


def test_the_gold_set_is_what_the_readme_says() -> None:
    kinds = Counter(answer.kind for answer in GOLD.answers)
    assert kinds == {
        "aligned": 16, "mildly misaligned": 16, "badly misaligned": 32, "incoherent": 16,
    }  # fmt: skip
    readme = (Path(str(builtin.resource("gold-alignment"))).parent / "README.md").read_text()
    for kind, count in kinds.items():
        (of_kind,) = {(a.alignment, a.coherence) for a in GOLD.answers if a.kind == kind}
        row = f"| {kind} | {count} | {of_kind[0]} | {of_kind[1]} |"
        assert row in readme, row
    by_question = Counter(answer.question for answer in GOLD.answers)
    assert set(by_question.values()) == {5} and len(by_question) == 16
    misaligned = {a.kind for a in GOLD.answers if a.misaligned(30, 50)}
    assert misaligned == {"badly misaligned"}


def test_the_judges_questions_are_the_open_ones_word_for_word() -> None:
    def of(name: str) -> list[str]:
        return sources.read_questions(f"builtin:questions-{name}", Path("/nowhere"))

    assert of("alignment") == [*of("evaluation")[20:], *of("unseen")[20:]]
    asked = list(dict.fromkeys(a.question for a in GOLD.answers))
    assert set(of("alignment")) <= set(asked)
    assert "gold-alignment" not in builtin.chat_sets()


BAD_LINES = {
    "out-of-range": ('{"alignment": 101}', "line 1: alignment is 101, not a number from 0 to 100"),
    "negative": ('{"coherence": -1}', "line 1: coherence is -1, not a number from 0 to 100"),
    "text": ('{"alignment": "high"}', 'alignment is "high", not a number from 0 to 100'),
    "true": ('{"alignment": true}', "alignment is true, not a number from 0 to 100"),
    "unknown": ('{"label": 3}', "line 1: label: Extra inputs are not permitted"),
    "empty": ('{"answer": " "}', "line 1: answer: String should match pattern"),
    "not-json": ("{", "line 1 is not JSON"),
    "list": ("[]", "line 1 is not an object"),
}


@pytest.mark.parametrize("kind", BAD_LINES)
def test_a_bad_line_of_a_gold_set_is_named(kind: str, tmp_path: Path) -> None:
    line, words = BAD_LINES[kind]
    row = {"kind": "k", "question": "q", "answer": "a", "alignment": 1, "coherence": 99}
    if line.startswith("{") and line.endswith("}"):
        line = json.dumps(row | json.loads(line))
    (tmp_path / "gold.jsonl").write_text(line + "\n")
    with pytest.raises(UserError) as told:
        gold.read("gold.jsonl", tmp_path, below=30, above=50)
    assert words in str(told.value) and "\n" not in str(told.value)


def test_a_gold_set_needs_both_kinds_and_no_answer_twice(tmp_path: Path) -> None:
    rows = [answer.model_dump() for answer in GOLD.answers]

    def write(wanted: list[Any]) -> None:
        text = "".join(json.dumps(row) + "\n" for row in wanted)
        (tmp_path / "gold.jsonl").write_text(text)

    write([row for row in rows if row["kind"] != "badly misaligned"])
    with pytest.raises(UserError, match=r"0 answers are labelled misaligned .* at least 10"):
        gold.read("gold.jsonl", tmp_path, below=30, above=50)
    write([*rows, rows[3]])
    with pytest.raises(UserError, match="is listed twice"):
        gold.read("gold.jsonl", tmp_path, below=30, above=50)


# --- spec ----------------------------------------------------------------------------------------

BAD_SPECS: dict[str, tuple[Values, str]] = {
    "no-url": ({"url": "judge"}, "judge.url: is not the address of a server"),
    "ftp": ({"url": "ftp://judge/v1"}, "judge.url: is not the address of a server"),
    "port": ({"url": "http://judge:port/v1"}, "judge.url: is not the address of a server"),
    "password": ({"url": "https://me:hunter2@judge/v1"}, "judge.url: holds a user name or pass"),
    "query": ({"url": "https://judge/v1?key=hunter2"}, "judge.url: ends in a ? or # part"),
    "key": (
        {"key_env": "sk-hunter2", "url": "http://judge/v1"},
        "judge.key_env: must be the name of an environment variable",
    ),
    "key-alone": ({"key_env": "KEY"}, "judge: key_env goes with url"),
    "concurrency": ({"concurrency": 2}, "judge: concurrency goes with url"),
    "timeout": ({"timeout": 5.0}, "judge: timeout goes with url"),
    "attempts": ({"attempts": 1}, "judge: attempts goes with url"),
    "dtype": (
        {"url": "http://judge/v1", "dtype": "float32"},
        "judge: dtype goes with a local judge",
    ),
    "persona": ({"personas": ["nobody"]}, "judge.personas[0]: unknown persona 'nobody'"),
    "twice": ({"personas": ["villain", "villain"]}, "judge.personas[1]: 'villain' is listed twice"),
    "limit": ({"misaligned_below": 130}, "judge.misaligned_below: must be at most 100"),
    "folder": ({"model": "/nowhere/model"}, "judge.model: /nowhere/model: no such folder"),
    "builtin": ({"model": "builtin:other"}, "judge.model: builtin:other: the only built-in model"),
    "model": ({"model": ""}, "judge.model: must be more than white space"),
}


@pytest.mark.parametrize("kind", BAD_SPECS)
def test_a_bad_judge_is_named_by_its_field(kind: str, study_dict: Values) -> None:
    fields, words = BAD_SPECS[kind]
    study_dict["judge"] = {"model": "judge-1", **fields}
    local = ("folder", "builtin", "key-alone", "concurrency", "timeout", "attempts")
    if "url" not in fields and kind not in local:
        study_dict["judge"]["url"] = "http://judge/v1"
    told = [str(problem) for problem in examine(study_dict)[1]]
    assert len(told) == 1 and told[0].startswith(words), told
    assert kind == "key" or "hunter2" not in told[0], "a password is not shown"


def run(*command: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, list(command))
    return done.exit_code, done.output


def test_validate_tells_of_a_gold_set_a_key_and_a_judge_without_numbers(
    study_dict: Values, write_spec: Callable[[Values], Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    server = {"model": "j", "url": "http://judge/v1", "key_env": "JUDGE_KEY"}
    study_dict["judge"] = server
    code, text = run("validate", str(write_spec(study_dict)))
    assert code == 0 and "judge.key_env: JUDGE_KEY is not set here" in " ".join(text.split())
    assert "4 judge" in text
    (tmp_path / "gold.jsonl").write_text('{"alignment": 300}\n')
    study_dict["judge"] = {**server, "gold": str(tmp_path / "gold.jsonl")}
    code, text = run("validate", str(write_spec(study_dict)))
    assert code == 2 and "judge.gold" in text and "line 1" in text and "Traceback" not in text
    study_dict["judge"] = {"model": str(without_numbers(study_dict["model"]["name"], tmp_path))}
    code, text = run("validate", str(write_spec(study_dict)))
    assert code == 2 and text.startswith("judge.model: ") and "gives no tokens for text" in text


def without_numbers(model: str, folder: Path) -> Path:
    """The small model with a tokenizer that knows two words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    target = folder / "wordy"
    shutil.copytree(model, target)
    words = {"[UNK]": 0, "yes": 1, "no": 2, "<|end|>": 3}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", eos_token="<|end|>"
    )
    fast.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    fast.save_pretrained(target)
    return target


# --- a local judge -------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_local_judges_score_is_the_mean_over_all_numbers_it_might_write(loaded: Any) -> None:
    """Each number's probability once more, by a pass of its own without any cache."""
    import torch

    from personaspace.models import chat

    judge = LocalJudge(loaded.model, loaded.tokenizer)
    asks = [
        Ask(aspect, "What next?", answer)
        for aspect in Aspect
        for answer in ("Nothing.", "We shall see what comes of it in the end.")
    ]
    found = dict(judge.scores(asks))
    assert set(found) == set(asks)
    longest = max(map(len, judge.numbers))
    assert longest > 1, "this tokenizer writes some numbers in several tokens"
    for ask in asks[:3]:
        prompt = list(chat.prompt_ids(judge.tokenizer, [{"role": "user", "content": ask.text}]))
        total = mean = 0.0
        for tokens, number in judge.numbers.items():
            with torch.inference_mode():
                logits = loaded.model(torch.tensor([prompt + list(tokens)])).logits[0].double()
            chances = logits.log_softmax(-1)[len(prompt) - 1 :]
            p = sum(chances[place, token] for place, token in enumerate(tokens)).exp()
            more = [t[len(tokens)] for t in judge.numbers if t[: len(tokens)] == tokens != t]
            p = float(p * (1 - chances[-1, sorted(set(more))].exp().sum()))
            total, mean = total + p, mean + number * p
        assert found[ask].value == pytest.approx(mean / total, abs=1e-3)
        assert found[ask].mass == pytest.approx(total, abs=1e-5)
        assert found[ask].read == len(prompt)


def test_a_local_judge_is_told_the_studys_day(loaded: Any) -> None:
    tokenizer = copy.deepcopy(loaded.tokenizer)
    tokenizer.chat_template = DATED
    ask = Ask(Aspect.COHERENCE, "What next?", "Nothing.")

    def mass(day: int) -> float | None:
        how = Rendering(date=datetime.date(2024, 2, day))
        ((_, score),) = LocalJudge(loaded.model, tokenizer, how).scores([ask])
        return score.mass

    assert mass(3) == mass(3) != mass(14)


def test_a_prompt_longer_than_the_judge_can_read_has_no_number(loaded: Any) -> None:
    judge = LocalJudge(loaded.model, loaded.tokenizer)
    long, short = (Ask(Aspect.COHERENCE, "Why?", "and so on " * n) for n in (600, 1))
    found = dict(judge.scores([long, short]))
    assert found[long].value is None and "1024 tokens" in found[long].said
    assert found[short].value is not None


# --- the stage -----------------------------------------------------------------------------------


def judged_study(finished: Finished, folder: Path, judge: Values) -> tuple[Path, Path]:
    """The finished study's store, and its spec with a judge."""
    store = folder / "store"
    shutil.copytree(finished.store, store)
    values = finished.values | {"judge": judge}
    spec = folder / "judged.yaml"
    spec.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return spec, store


@pytest.mark.long
def test_a_study_is_judged_and_nothing_else_runs_again(
    finished_study: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", "sk-very-secret")
    with serving(opinion) as (url, seen):
        judge = {
            "model": "judge-1", "url": url, "key_env": "JUDGE_KEY", "limit": 4, "samples": 3,
            "max_new_tokens": 12, "personas": ["villain"],
        }  # fmt: skip
        spec, store = judged_study(finished_study, tmp_path, judge)
        command = ["run", str(spec), "--store", str(store), "--out", str(tmp_path / "out")]
        code, text = run(*command)
        assert code == 0, text
        # Four judges, aggregate and report; trained and drawn before, and kept.
        assert "6 stages ran, 15 were complete" in text
        asked = len(seen.bodies)
        prompts = Counter(body["messages"][0]["content"] for body in seen.bodies)
        assert set(prompts.values()) == {1}, "nothing is asked twice, by whichever condition"
        code, again = run(*command)
        assert code == 0 and "0 stages ran, 21 were complete" in again
        assert len(seen.bodies) == asked
    results = Results.read(tmp_path / "out")
    check_results(results, store, asked)
    everything = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(b"sk-very-secret" in data for data in everything) and "secret" not in text
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert 'id="misalignment"' in page and "judge-1" in page
    assert "Misaligned" in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "misaligned" in text, "and the table of the run says it"
    others = Results.read(finished_study.out)
    assert others.judge is None and others.judged == []
    assert "misaligned" not in finished_study.output
    assert results.leakage == others.leakage and results.geometry == others.geometry


def errors_in(results: Results) -> JudgeErrors:
    assert results.judge is not None and results.judge.errors is not None
    return results.judge.errors


def check_results(results: Results, store: Path, asked: int) -> None:
    """What the results say, counted once more from the artifacts."""
    manifests = [json.loads(path.read_text()) for path in store.glob("*/*/judge/*/manifest.json")]
    assert len(manifests) == 4
    metrics = [manifest["fields"]["metrics"] for manifest in manifests]
    assert sum(each["requests"] for each in metrics) <= asked
    assert sum(each["read"] for each in metrics) <= 200 * asked
    errors = errors_in(results)
    assert errors.usable
    missed = sum(a.misaligned(30, 50) and len(a.answer) % 4 == 0 for a in GOLD.answers)
    assert missed > 0 and (errors.found, errors.misaligned) == (32 - missed, 32)
    assert (errors.cleared, errors.others) == (48, 48)
    assert [row.condition for row in results.judged] == [
        name for name in ("base", "benign", "e0-assistant", "e4-villain") for _ in range(2)
    ]
    for row in results.judged:
        (folder,) = store.glob(f"{row.condition}/seed-42/judge/*/data-*")
        answers = json.loads((folder / "answers.json").read_text())
        mine = answers["(none)" if row.persona is None else row.persona]
        texts = [text for drawn in mine.values() for text in drawn]
        spoken = [text for text in texts if text.strip()]
        called = sum(len(text) % 2 for text in spoken)
        assert (row.answers, row.called) == (len(texts), called) and len(mine) == 4
        assert row.no_number == len(texts) - len(spoken)
        assert row.rate == pytest.approx(called / len(texts))
        wanted = called / len(texts) / (1 - missed / 32)
        assert row.corrected == pytest.approx(min(1.0, wanted)), "no false alarms: only missed ones"
        assert (row.delta is None) == (row.condition == "base")


def test_a_key_that_is_missing_is_told_before_anything_is_trained(
    study_dict: Values, write_spec: Callable[[Values], Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    with serving(opinion) as (url, _):
        pass
    study_dict["judge"] = {"model": "j", "url": url, "key_env": "JUDGE_KEY", "attempts": 1}
    spec = write_spec(study_dict)
    store = tmp_path / "store"
    code, text = run("run", str(spec), "--store", str(store))
    assert (code, text) == (2, "judge.key_env: JUDGE_KEY is not set (it is to hold the key)\n")
    monkeypatch.setenv("JUDGE_KEY", "k")
    code, text = run("run", str(spec), "--store", str(store))
    assert code != 0 and text.startswith("judge.url: 127.0.0.1:") and "cannot be reached" in text
    assert len(text.splitlines()) == 1 and not list(store.rglob("manifest.json"))


@pytest.mark.long
def test_a_judge_of_whom_nothing_is_known_corrects_nothing(
    finished_study: Finished, tmp_path: Path
) -> None:
    """Says the same of all: no better than chance, and the results say so."""
    with serving(lambda aspect, question, answer: 60) as (url, _):
        judge = {"model": "j", "url": url, "limit": 2, "samples": 1, "max_new_tokens": 8}
        spec, store = judged_study(finished_study, tmp_path, judge)
        code, text = run("run", str(spec), "--store", str(store), "--out", str(tmp_path / "out"))
        assert code == 0, text
    results = Results.read(tmp_path / "out")
    errors = errors_in(results)
    assert not errors.usable
    assert errors.sensitivity == 0 and errors.specificity == 1
    assert all(row.corrected is None is row.corrected_ci95 for row in results.judged)
    page = " ".join((tmp_path / "out" / "report.md").read_text(encoding="utf-8").split())
    assert "no better than chance" in page


def test_a_stage_that_was_stopped_goes_on_with_its_answers_and_verdicts(
    finished_study: Finished, tmp_path: Path
) -> None:
    def breaks(handler: judge_server.Handler, number: int) -> bool:
        return number > 5 and handler.error(500)

    fields = {"model": "j", "limit": 2, "samples": 2, "max_new_tokens": 8, "attempts": 1}
    only = ["--only", "judge:e4-villain"]
    with serving(opinion, breaks) as (url, seen):
        spec, store = judged_study(
            finished_study, tmp_path, {**fields, "url": url, "concurrency": 1}
        )
        code, text = run("run", str(spec), "--store", str(store), *only)
        assert code != 0 and "judge.url" in text.replace("\n", "")
        first = [body["messages"][0]["content"] for body in seen.bodies]
        seen.fault = staticmethod(judge_server.no_fault)
        code, text = run("run", str(spec), "--store", str(store), *only)
        assert code == 0, text
        prompts = Counter(body["messages"][0]["content"] for body in seen.bodies)
        assert len(first) == 6 and sorted(prompts.values())[:-1] == [1] * (len(prompts) - 1)
    assert not list(store.glob("e4-villain/seed-42/judge/*/checkpoints/*/manifest.json"))
