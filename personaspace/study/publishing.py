"""Part of the spec: where a finished study is published; in no fingerprint of a result."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field, StrictBool

from personaspace.study.fields import Ink, RepoName
from personaspace.study.section import Section


class Kind(StrEnum):
    """What can be published; each goes to a folder of its name."""

    ADAPTERS = "adapters"
    VECTORS = "vectors"
    ACTIVATIONS = "activations"
    ANSWERS = "answers"
    RESULTS = "results"
    REPORT = "report"


#: Without hidden states, which are large and come out the same from adapters and questions.
USUAL = tuple(kind for kind in Kind if kind is not Kind.ACTIVATIONS)


class Publish(Section):
    """Publishing on the Hugging Face Hub once the report is there; a failure takes no result away.

    The token is HF_TOKEN's or that of the Hub's own login, and never stands here.
    """

    repo: RepoName = Field(
        description="owner/name: a model's for the adapters, and a data set's for all else."
    )
    include: list[Kind] = Field(
        list(USUAL),
        min_length=1,
        description="What of the study: adapters, vectors, activations, answers, results, report.",
    )
    collection: Annotated[Ink, Field(max_length=200)] | None = Field(
        None,
        description="A collection to put both into: its title (the owner's; made if there is none) "
        "or its address.",
    )
    public: StrictBool = Field(
        False, description="Readable by all; only where the repository is made now."
    )
