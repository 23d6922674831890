"""Loading the base model and its tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from safetensors import SafetensorError

from personaspace.console import counted, verb
from personaspace.errors import UnavailableError, UserError
from personaspace.hub.client import check_endpoint
from personaspace.logs import quiet_libraries
from personaspace.models import architecture
from personaspace.study.base_model import at_hand, commit_of, local_folder
from personaspace.study.inputs import Model

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def _where(model: Model) -> tuple[str, dict[str, Any]]:
    """What transformers is to load, and how; never the model's own code."""
    folder = local_folder(model)
    if folder is None:
        check_endpoint()
    options: dict[str, Any] = {} if folder else {"revision": commit_of(model)}
    return str(folder or model.name), {**options, "trust_remote_code": False}


def _refused(model: Model, error: Exception, field: str = "model.name") -> UserError:
    from huggingface_hub.errors import LocalEntryNotFoundError

    # What transformers raises where the hub does not answer and the cache has nothing.
    away = isinstance(error.__cause__, LocalEntryNotFoundError | ConnectionError)
    return (UnavailableError if away else UserError)(
        f"{field}: {model.name}: {' '.join(str(error).split())[:400]}"
    )


def load_config(model: Model, field: str = "model.name") -> Any:
    """The model's configuration.

    Args:
        model: Which.
        field: Where it is named in the spec, for messages.

    Raises:
        UserError: Not to be had, or of a model that cannot be used.
    """
    from transformers.utils.hub import cached_file

    folder = at_hand(model) or local_folder(model)
    if folder is None:
        name, options = _where(model)
        try:
            folder = Path(str(cached_file(name, "config.json", **options))).parent
        except (OSError, ValueError) as error:
            raise _refused(model, error, field) from None
    try:
        return architecture.read_config(folder)
    except UserError as error:
        raise _refused(model, error, field) from None


def load_tokenizer(model: Model, field: str = "model.name") -> PreTrainedTokenizerBase:
    """The model's tokenizer, checked to have a chat template and to know its tokens.

    Args:
        model: Which.
        field: Where it is named in the spec, for messages.

    Raises:
        UserError: Not to be had, without a chat template, or without a vocabulary.
    """
    from transformers import AutoTokenizer

    quiet_libraries()
    name, options = _where(model)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **options)
    except Exception as error:  # broken files raise whatever their readers raise
        raise _refused(model, error, field) from None
    if not tokenizer.chat_template:
        raise UserError(f"{field}: {model.name} has no chat template")
    if isinstance(tokenizer.chat_template, dict) and "default" not in tokenizer.chat_template:
        names = ", ".join(sorted(tokenizer.chat_template))
        raise UserError(
            f"{field}: {model.name} has chat templates of other names ({names}), none of them "
            "the default"
        )
    if not tokenizer.is_fast:
        raise UserError(f"{field}: {model.name} has no tokenizer.json, and no fast tokenizer")
    text = "The tokenizer knows these words."
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    back = str(tokenizer.decode(ids))
    if "".join(back.split()) != "".join(text.split()):
        raise UserError(
            f"{field}: {model.name}: its tokenizer gives no tokens for text: {text!r} comes "
            f"back as {back!r} (is tokenizer.json missing?)"
        )
    return tokenizer


def declared_ends(model: Model) -> tuple[int, ...]:
    """End tokens that the model's own settings name, in generation_config.json or config.json.

    Nothing else of the former is used: how answers are drawn, the study says.
    """
    from transformers import GenerationConfig

    name, options = _where(model)
    options.pop("trust_remote_code")
    try:
        named: Any = GenerationConfig.from_pretrained(name, **options).eos_token_id
    except (OSError, ValueError):
        named = None
    if named is None:
        named = getattr(load_config(model).get_text_config(), "eos_token_id", None)
    ids = named if isinstance(named, list | tuple) else [named]
    return tuple(int(each) for each in ids if each is not None)


def load_model(model: Model, field: str = "model.name") -> PreTrainedModel:
    """The base model in evaluation mode, gradients off, on the GPU if there is one.

    Args:
        model: Which.
        field: Where it is named in the spec, for messages.

    Raises:
        UserError: Not to be had, incomplete, or too large for the device.
    """
    import torch
    from transformers import AutoModelForCausalLM

    config = load_config(model, field)
    name, options = _where(model)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device != "cpu":
        # Each tensor goes from the mapped file straight to the GPU; no copy in host memory.
        options["device_map"] = {"": device}
    try:
        loaded, told = cast("Any", AutoModelForCausalLM.from_pretrained)(
            name,
            dtype=getattr(torch, model.dtype),
            attn_implementation=architecture.attention_of(config),
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
    except (torch.OutOfMemoryError, MemoryError):
        raise UserError(
            f"{field}: {model.name} in {model.dtype} does not fit into this device's memory"
        ) from None
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise _refused(model, error, field) from None
    except RuntimeError as error:
        if "CUDA" in str(error):  # the machine's fault, which another try may not have
            raise
        raise _refused(model, error, field) from None
    missing = sorted(told.get("missing_keys") or [])
    if missing:
        raise UserError(
            f"{field}: {model.name}: {counted(len(missing), 'tensor')} "
            f"{verb(len(missing), 'is', 'are')} not in its files, first "
            f"{missing[0]}; transformers would make them up"
        )
    loaded.eval()
    loaded.requires_grad_(False)
    return cast("PreTrainedModel", loaded)
