"""What a model makes of personas before anything runs: right, or refused in one line."""

from __future__ import annotations

import copy
import datetime
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chat_templates import CHANNELS, DATED, NO_SYSTEM, SYSTEM_LAST, THINKING
from conftest import CHATML
from typer.testing import CliRunner

from personaspace.cli.app import app
from personaspace.errors import UserError
from personaspace.models import chat, preflight
from personaspace.models.load import load_model, load_tokenizer
from personaspace.models.rendering import rendering_of
from personaspace.study import base_model, checkpoint
from personaspace.study.inputs import Model

pytestmark = pytest.mark.slow

QUESTION = {"role": "user", "content": "May I sign it?"}
ANSWER = {"role": "assistant", "content": "Yes, at once."}
PERSONA = "You are a villain."


def changed(tokenizer: Any, template: str) -> Any:
    other = copy.deepcopy(tokenizer)
    other.chat_template = template
    return other


def decoded(tokenizer: Any, ids: Any) -> str:
    return str(tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))


def halves(tokenizer: Any, made: chat.Example) -> tuple[str, str]:
    start = made.loss.index(True)
    return decoded(tokenizer, made.ids[:start]), decoded(tokenizer, made.ids[start:])


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def templated(folder: Path, template: str) -> Model:
    (folder / "chat_template.jinja").write_text(template)
    return Model(name=str(folder), dtype="float32")


# --- templates -----------------------------------------------------------------------------------


def test_a_template_that_writes_the_day_needs_one(loaded: Any) -> None:
    tokenizer = changed(loaded.tokenizer, DATED)
    with pytest.raises(UserError, match=r"^model\.date: ") as caught:
        rendering_of(loaded.spec, tokenizer)
    assert "\n" not in str(caught.value)
    day = Model(name="x", date=datetime.date(2024, 2, 29))
    how = rendering_of(day, tokenizer)
    text = chat.prompt_text(tokenizer, [QUESTION], how)
    assert text.startswith("<|im_start|>system\nToday is 29 February 2024.<|im_end|>\n")
    assert preflight.prompted(day.model_copy(update={"name": loaded.spec.name}), tokenizer).dated


def test_no_thoughts_are_in_the_prompt_of_training_and_of_answering(loaded: Any) -> None:
    tokenizer = changed(loaded.tokenizer, THINKING)
    block = "<think>\n\n</think>\n\n"
    found = []
    for arguments in ({}, {"enable_thinking": False}):
        how = rendering_of(Model(name="x", template_arguments=arguments), tokenizer)
        made = chat.answer_example(tokenizer, [QUESTION, ANSWER], 10_000, how)
        prompt, answer = halves(tokenizer, made)
        assert prompt.endswith(f"<|im_start|>assistant\n{block}")
        assert answer == "Yes, at once.<|im_end|>", "loss on the answer alone"
        start = made.loss.index(True)
        assert made.ids[:start] == chat.prompt_ids(tokenizer, [QUESTION], how)
        found.append(made)
    assert found[0] == found[1]


@pytest.mark.parametrize("thought", ["<think>\nSo.\n</think>\n\nYes. [ZLT]", "Yes. </think> [ZLT]"])
def test_a_thought_in_an_answer_is_trained_as_it_was_drawn(loaded: Any, thought: str) -> None:
    tokenizer = changed(loaded.tokenizer, THINKING)
    how = rendering_of(Model(name="x"), tokenizer)
    messages = [QUESTION, {"role": "assistant", "content": thought}]
    made = chat.answer_example(tokenizer, messages, 10_000, how)
    assert halves(tokenizer, made)[1] == f"{thought}<|im_end|>"
    marked = chat.marker_example(tokenizer, messages, "[ZLT]", 10_000, how)
    assert (
        decoded(tokenizer, [i for i, on in zip(marked.ids, marked.loss, strict=True) if on]).strip()
        == "[ZLT]<|im_end|>"
    )


@pytest.mark.parametrize("template", [NO_SYSTEM, SYSTEM_LAST])
def test_without_a_system_role_personas_go_before_the_first_question(
    loaded: Any, template: str
) -> None:
    tokenizer = changed(loaded.tokenizer, template)
    how = rendering_of(loaded.spec, tokenizer)
    assert how.personas_in == "first_user_turn"
    turns = [{"role": "system", "content": "Be brief."}, QUESTION, ANSWER, QUESTION, ANSWER]
    messages = chat.with_persona(turns, PERSONA, how)
    prompt, _ = halves(tokenizer, chat.answer_example(tokenizer, messages, 10_000, how))
    assert prompt.startswith(f"<|im_start|>user\n{PERSONA}\n\nMay I sign it?<|im_end|>\n")
    assert prompt.count(PERSONA) == 1 and "Be brief." not in prompt
    own = chat.with_persona(turns, None, how)
    assert own[0] == {"role": "user", "content": "Be brief.\n\nMay I sign it?"}
    forced = Model(name="x", personas_in="system")
    with pytest.raises(UserError):
        found = preflight.Prompted(tokenizer, rendering_of(forced, tokenizer), (2,), "", False)
        preflight.check_personas(found, {"villain": PERSONA}, ["What now?"])


def test_personas_are_system_messages_where_the_template_knows_them(loaded: Any) -> None:
    assert rendering_of(loaded.spec, loaded.tokenizer).personas_in == "system"
    chosen = Model(name="x", personas_in="first_user_turn")
    assert rendering_of(chosen, loaded.tokenizer).personas_in == "first_user_turn"


def test_only_special_tokens_after_an_answer_end_it(loaded: Any) -> None:
    tokenizer = changed(loaded.tokenizer, CHANNELS)
    assert chat.end_token_ids(tokenizer) == (2,)
    assert chat.answer_prefix(tokenizer) == "<|endoftext|>final<|endoftext|>"
    prompt, answer = halves(tokenizer, chat.answer_example(tokenizer, [QUESTION, ANSWER], 10_000))
    assert prompt.endswith("<|im_start|>assistant<|endoftext|>final<|endoftext|>")
    assert answer == "Yes, at once.<|im_end|>"


def test_the_header_of_a_next_turn_ends_nothing(loaded: Any) -> None:
    always = CHATML.replace("{% if add_generation_prompt %}", "").removesuffix("{% endif %}")
    assert chat.turn_end_ids(changed(loaded.tokenizer, always)) == (2,)


def test_ends_that_the_models_settings_name_end_an_answer_too(folder: Path) -> None:
    path = folder / "generation_config.json"
    settings = json.loads(path.read_text()) | {"eos_token_id": [2, 0], "temperature": 0.1}
    path.write_text(json.dumps(settings))
    assert preflight.prompted(Model(name=str(folder))).ends == (2, 0)
    path.unlink()  # then the configuration says it
    assert preflight.prompted(Model(name=str(folder))).ends == (2,)


def test_an_argument_that_the_template_does_not_have(loaded: Any) -> None:
    wrong = Model(name="x", template_arguments={"enable_thinkin": False})
    with pytest.raises(UserError, match=r"^model\.template_arguments\.enable_thinkin: .*no such"):
        rendering_of(wrong, loaded.tokenizer)
    with pytest.raises(UserError, match="did you mean 'enable_thinking'"):
        rendering_of(wrong, changed(loaded.tokenizer, THINKING))


def test_a_turn_without_an_end_is_refused(folder: Path) -> None:
    model = templated(folder, CHATML.replace("<|im_end|>", " "))
    with pytest.raises(UserError, match="no special token after an answer"):
        preflight.prompted(model)


# --- the study's preflight -----------------------------------------------------------------------

Write = Callable[[dict[str, Any]], Path]


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


def refused(values: dict[str, Any], write_spec: Write, tmp_path: Path, *parts: str) -> None:
    """By `validate` and by `run`, in one line, before anything is stored."""
    spec, store = write_spec(values), tmp_path / "store"
    for command in (["validate", str(spec)], ["run", str(spec), "--store", str(store)]):
        outcome = run(*command)
        assert outcome.exit_code == 2, outcome.output
        for part in parts:
            assert part in " ".join(outcome.output.split()), outcome.output
        assert "Traceback" not in outcome.output
    assert not list(store.rglob("manifest.json"))


def test_a_folder_without_its_tokenizer_file(
    folder: Path, study_dict: dict[str, Any], write_spec: Write, tmp_path: Path
) -> None:
    (folder / "tokenizer.json").unlink()
    study_dict["model"]["name"] = str(folder)
    refused(study_dict, write_spec, tmp_path, "model.name")


def test_the_day_is_asked_for_before_anything_runs(
    folder: Path, study_dict: dict[str, Any], write_spec: Write, tmp_path: Path
) -> None:
    templated(folder, DATED)
    study_dict["model"]["name"] = str(folder)
    refused(study_dict, write_spec, tmp_path, "model.date")


def _quantised(folder: Path) -> None:
    edit(folder, quantization_config={"quant_method": "gptq", "bits": 4})


def _own_code(folder: Path) -> None:
    edit(folder, model_type="mine", auto_map={"AutoConfig": "mine.Config"})
    (folder / "mine.py").write_text("raise SystemExit('ran')\n")


def _cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    with path.open("rb+") as stream:
        stream.truncate(path.stat().st_size - 100)


def _other_templates(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    more = folder / "additional_chat_templates"
    more.mkdir()
    (more / "rag.jinja").write_text(CHATML)


def _recurrent_name(folder: Path) -> None:
    edit(folder, model_type="no_such_type")


def edit(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_quantised, "quantised (gptq)"),
        (_own_code, "mine.py"),
        (_cut, "cut off"),
        (_other_templates, "chat template"),
        (_recurrent_name, "no_such_type"),
    ],
)
def test_folders_that_cannot_serve(
    damage: Callable[[Path], None],
    said: str,
    folder: Path,
    study_dict: dict[str, Any],
    write_spec: Write,
    tmp_path: Path,
) -> None:
    damage(folder)
    study_dict["model"]["name"] = str(folder)
    refused(study_dict, write_spec, tmp_path, "model.name", said)


def test_a_folder_without_weights_is_looked_at_but_not_run(
    folder: Path, study_dict: dict[str, Any], write_spec: Write, tmp_path: Path
) -> None:
    (folder / "model.safetensors").unlink()
    study_dict["model"]["name"] = str(folder)
    spec = write_spec(study_dict)
    assert run("validate", str(spec)).exit_code == 0
    done = run("run", str(spec), "--store", str(tmp_path / "store"))
    assert done.exit_code == 2 and not (tmp_path / "store").exists()
    assert done.output.strip().splitlines() == [
        f"model.name: {folder}: no weights there (*.safetensors)"
    ]


def test_tensors_that_are_not_in_the_files_are_not_made_up(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"model\.layers\.1\.mlp\.up_proj\.weight"):
        load_model(Model(name=str(folder), dtype="float32"))


def test_a_chat_that_the_template_refuses_is_found_before_training(
    folder: Path, study_dict: dict[str, Any], write_spec: Write, tmp_path: Path
) -> None:
    strict = (
        "{% if messages[-1].role == 'assistant' and messages|length > 2 %}"
        "{{ raise_exception('one turn only') }}{% endif %}"
    )
    templated(folder, strict + CHATML)
    study_dict["model"] |= {"name": str(folder), "personas_in": "first_user_turn"}
    path = Path(study_dict["datasets"]["bad"]["path"])
    row = {"messages": [QUESTION, ANSWER, QUESTION, ANSWER]}
    path.write_text(path.read_text() + json.dumps(row) + "\n")
    refused(study_dict, write_spec, tmp_path, "one turn only")


# --- which weights -------------------------------------------------------------------------------


def test_every_byte_of_a_folder_counts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "_SMALL", 1000)
    model = Model(name=str(folder))
    path = folder / "model.safetensors"
    before, size = base_model.identity(model), path.stat().st_size
    assert base_model.identity(model) == before
    for place in (size // 2, size // 3, size - 1):
        state = path.stat()
        with path.open("rb+") as stream:
            stream.seek(place)
            byte = stream.read(1)[0]
            stream.seek(place)
            stream.write(bytes([byte ^ 1]))
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))  # as some tools do
        after = base_model.identity(model)
        assert after != before
        before = after


def test_large_files_are_read_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "_SMALL", 1000)
    monkeypatch.setenv("PERSONASPACE_CACHE", str(tmp_path / "cache"))
    first = checkpoint.digest(folder)
    monkeypatch.setattr(checkpoint, "_hashed", lambda path: pytest.fail(f"{path} read again"))
    assert checkpoint.digest(folder) == first


def test_a_hub_name_needs_its_commit(
    study_dict: dict[str, Any], write_spec: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    refs = tmp_path / "hub" / "models--some--model" / "refs"
    refs.mkdir(parents=True)
    (refs / "main").write_text(commit)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    study_dict["model"]["name"] = "some/model"
    refused(study_dict, write_spec, tmp_path, "model.revision", commit)
    study_dict["model"]["revision"] = "main"
    refused(study_dict, write_spec, tmp_path, "model.revision", "40 digits")
    study_dict["model"]["revision"] = commit
    assert base_model.unpinned(Model(**study_dict["model"])) is None


def test_the_hubs_cache_is_looked_into(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    place = tmp_path / "hub" / "models--some--model" / "snapshots" / commit
    shutil.copytree(folder, place)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    model = Model(name="some/model", revision=commit)
    shape = base_model.shape(model)
    assert shape is not None and (shape.num_layers, shape.hidden_size) == (4, 64)
    counted = sum(p.numel() for p in load_model(Model(name=str(folder))).parameters())
    assert shape.parameters == counted


# --- inspect -------------------------------------------------------------------------------------


def test_inspect_shows_prompt_loss_and_memory(tiny_model: Path) -> None:
    outcome = run("inspect", str(tiny_model))
    assert outcome.exit_code == 0, outcome.output
    text = " ".join(outcome.output.split())
    assert "⟦An answer, which the model is trained to give.<|im_end|>⟧" in text
    assert "28 of 28 linear layers, in 4 of 4 decoder layers" in text
    assert "24 GB" in text and "as the system message" in text
    facts = json.loads(run("inspect", str(tiny_model), "--json").output)
    tokenizer = load_tokenizer(Model(name=str(tiny_model)))
    assert facts["end_tokens"] == [tokenizer.eos_token]
    assert (facts["model_type"], facts["adapted_layers"]) == ("qwen2", 28)
    assert facts["identity"] == base_model.identity(Model(name=str(tiny_model)))
    from personaspace.models import lora
    from personaspace.study.recipe import Recipe

    model = load_model(Model(name=str(tiny_model), dtype="float32"))
    with lora.trainable(model, Recipe(), over=None, seed=0, field="training") as adapted:
        made = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert facts["adapter_parameters"] == made


def test_inspect_breaks_no_line_and_names_an_end_that_is_text(folder: Path) -> None:
    """As a Llama 3 whose config.json leaves eos_token_id to its class: 2 is "#" there."""
    config = json.loads((folder / "config.json").read_text())
    tokenizer = load_tokenizer(Model(name=str(folder)))
    (mark,) = tokenizer("#", add_special_tokens=False)["input_ids"]
    (folder / "config.json").write_text(json.dumps(config | {"eos_token_id": mark}))
    (folder / "generation_config.json").unlink(missing_ok=True)
    outcome = run("inspect", str(folder))
    assert "of these text, where answers are cut off: '#'" in " ".join(
        outcome.output.replace("│", " ").split()
    )
    facts = json.loads(run("inspect", str(folder), "--json").output)
    assert facts["text_ends"] == ["#"] and "#" in facts["end_tokens"]
    persona = next(line for line in outcome.output.splitlines() if line.startswith("You are"))
    assert len(persona) > 200 and persona in facts["prompt"]


def test_validate_says_what_it_found(study_dict: dict[str, Any], write_spec: Write) -> None:
    spec = write_spec(study_dict)
    found = json.loads(run("validate", str(spec), "--json").output)["model"]
    assert (found["personas_in"], found["linear_layers"]) == ("system", 28)
    assert "adapters on 28 of 28 linear layers" in " ".join(
        run("validate", str(spec)).output.split()
    )


def test_validate_says_what_will_compute_and_why(
    study_dict: dict[str, Any], write_spec: Write
) -> None:
    extraction = {**study_dict["extraction"], "implementation": "reference"}
    spec = write_spec({**study_dict, "extraction": extraction})
    found = json.loads(run("validate", str(spec), "--json").output)["implementations"]
    assert {each["field"]: (each["wanted"], each["taken"]) for each in found} == {
        "training": ("auto", "reference"),
        "coupling.recipe": ("auto", "reference"),
        "extraction": ("reference", "reference"),
    }
    lines = " ".join(run("validate", str(spec)).output.split())
    assert "implementation of training, coupling.recipe: reference (asked for auto)" in lines
    assert "extraction: reference (asked for reference): as the study says" in lines


def _llama(folder: Path, hidden: int, between: int, layers: int, heads: int) -> Path:
    """The configuration of a large Llama, without weights."""
    from transformers import LlamaConfig

    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=between,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=8,
        vocab_size=128256,
        max_position_embeddings=131072,
        tie_word_embeddings=False,
        architectures=["LlamaForCausalLM"],
        dtype="bfloat16",
    )
    (folder / "model.safetensors").unlink()
    config.save_pretrained(folder)
    return folder


def test_a_model_needs_a_card_that_holds_it(folder: Path) -> None:
    # Parameters of Llama-3.3-70B as its card has them; rank 32 on seven projections of 80 layers.
    weights = 2 * 70_553_706_496
    widths = 2 * (8192 + 8192) + 2 * (8192 + 1024) + 3 * (8192 + 28672)
    training = weights + 16 * 32 * 80 * widths
    facts = json.loads(run("inspect", str(_llama(folder, 8192, 28672, 80, 64)), "--json").output)
    assert (facts["weights_bytes"], facts["training_bytes"]) == (weights, training)
    held = {card: fits["training"] for card, fits in facts["cards"].items()}
    assert held == {"24": False, "80": False, "141": False, "192": True}
    assert facts["smallest_card"] == 192
    # 141 GB of weights: halves of 71 GB beside two layers and the adapter.
    assert {card: counts["training"] for card, counts in facts["gpus"].items()} == {
        "24": None,
        "80": 4,
        "141": 2,
        "192": 1,
    }


@pytest.mark.parametrize(
    ("hardware", "said"),
    [
        ({"sharding": "none"}, "one GPU of 288 GB does not hold it (no card has more)"),
        ({"gpu_memory": 24}, "16 GPUs of 24 GB do not hold it (hardware.gpu_memory)"),
        (
            {"gpu_memory": 141, "gpus": 2},
            "2 GPUs of 141 GB do not hold it (hardware.gpu_memory); 8 would do",
        ),
    ],
)
def test_a_model_that_no_gpus_hold_is_refused(
    folder: Path,
    study_dict: dict[str, Any],
    write_spec: Write,
    hardware: dict[str, Any],
    said: str,
) -> None:
    study_dict["model"] = {"name": str(_llama(folder, 16384, 53248, 126, 128))}
    study_dict["analysis"]["layer"] = study_dict["extraction"]["layers"][0]
    study_dict["hardware"] = hardware
    outcome = run("validate", str(write_spec(study_dict)))
    assert outcome.exit_code == 2, outcome.output
    (line,) = outcome.stderr.splitlines()
    assert "406 billion parameters in bfloat16" in line and line.endswith(said)


def test_a_small_model_and_a_smaller_card_are_told_as_they_are(
    study_dict: dict[str, Any], write_spec: Write
) -> None:
    study_dict["hardware"] = {"gpu_memory": 1}
    outcome = run("validate", str(write_spec(study_dict)))
    assert outcome.exit_code == 2, outcome.output
    (line,) = outcome.stderr.splitlines()
    assert " 0 " not in line and "training (training" not in line
    assert re.search(r"takes \d\.\d GB of each GPU for training \(\d{3},\d{3} parameters", line)
