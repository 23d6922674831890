"""What a saved adapter is: an ordinary one, the same in every process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_training import EXAMPLES, SEVEN, SMALL

import personaspace
from personaspace.models import lora
from personaspace.models.load import load_model
from personaspace.study.recipe import Recipe
from personaspace.training.trainer import (
    Trainer,
)


@pytest.mark.parametrize("targets", [SEVEN, ["q_proj", "lm_head"]])
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
def test_a_saved_adapter_is_an_ordinary_one(
    loaded: Any, tmp_path: Path, targets: list[str]
) -> None:
    from peft import PeftModel

    recipe = SMALL.model_copy(update={"targets": targets})
    ids = torch.tensor([EXAMPLES[0].ids])
    with lora.trainable(loaded.model, recipe, over=None, seed=3, field="training") as model:
        Trainer(model, EXAMPLES, recipe, 7).run()
        with torch.no_grad():
            wanted = model(input_ids=ids).logits
        lora.save(model, tmp_path, "some/model")
    files = {path.name for path in tmp_path.iterdir()}
    assert files == {"adapter_config.json", "adapter_model.safetensors"}
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    assert {name.rsplit(".", 2)[1] for name in tensors} == {"lora_A", "lora_B"}
    text = (tmp_path / "adapter_config.json").read_text()
    config = json.loads(text)
    assert config["base_model_name_or_path"] == "some/model"
    assert config["target_modules"] == sorted(targets)
    assert loaded.spec.name not in text and str(tmp_path) not in text
    fresh = load_model(loaded.spec)
    with torch.no_grad():
        base = fresh(input_ids=ids).logits
        again = PeftModel.from_pretrained(fresh, str(tmp_path))(input_ids=ids).logits
    assert again.equal(wanted)
    assert float((again - base).abs().max()) > 1e-2


SAVE = """
import sys
from pathlib import Path
from personaspace.models import lora
from personaspace.models.load import load_model
from personaspace.study.inputs import Model
from personaspace.study.recipe import Recipe
model = load_model(Model(name=sys.argv[1], dtype="float32"))
with lora.trainable(model, Recipe(rank=2), over=None, seed=5, field="training") as peft_model:
    lora.save(peft_model, Path(sys.argv[2]), "some/model")
"""


def in_another_process(hash_seed: str, code: str, *arguments: str) -> str:
    environment = {
        **os.environ,
        "PYTHONHASHSEED": hash_seed,
        "PYTHONPATH": str(Path(personaspace.__file__).parents[1]),
    }
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, text=True, check=True, timeout=240
    ).stdout


@pytest.mark.long
@pytest.mark.slow
def test_a_saved_adapter_is_the_same_in_every_process(
    loaded: Any, tiny_model: Path, tmp_path: Path
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for place in (here, there):
        place.mkdir()
    # A process in which a set of the seven names does have another order than in this one.
    order = f"print(list(set({SEVEN!r})))"
    other = next(
        seed
        for seed in ("1", "2")
        if in_another_process(seed, order).strip() != str(list(set(SEVEN)))
    )
    in_another_process(other, SAVE, str(tiny_model), str(there))
    with lora.trainable(
        loaded.model, Recipe(rank=2), over=None, seed=5, field="training"
    ) as peft_model:
        lora.save(peft_model, here, "some/model")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (here / name).read_bytes() == (there / name).read_bytes()
