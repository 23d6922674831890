"""What a stage is lent of the study's model, whoever has loaded it (`runtime`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from personaspace.generation.base import Engine

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from personaspace.models.footprint import Use
    from personaspace.models.preflight import Prompted


class Models(Protocol):
    """The base model in the forms that stages use; each is loaded when it is first asked for."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Its tokenizer."""

    @property
    def prompted(self) -> Prompted:
        """How chats are put to it."""

    @property
    def end_token_ids(self) -> tuple[int, ...]:
        """Tokens that end an answer."""

    @property
    def model(self) -> PreTrainedModel:
        """In evaluation mode, for passes without gradients."""

    @property
    def training_model(self) -> PreTrainedModel:
        """The same where gradients and activations must find room as well."""

    def engine(self) -> Engine:
        """What draws answers from it."""

    def spread(self, use: Use, wanted: int = 1) -> list[str]:
        """Devices that the stage spreads it over; empty: it has it whole.

        Raises:
            UserError: There are too few.
        """

    def make_way(self) -> None:
        """Leave a GPU to another model."""

    def describe(self) -> dict[str, Any]:
        """Device and versions, for manifests."""
