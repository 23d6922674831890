"""Types that fields of several parts of the spec share."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StrictInt

Method = Literal["a", "b"]
Kind = Literal["base", "benign", "em"]
#: When coupling takes place: after fine-tuning, or before it.
Order = Literal["after", "before"]
#: What computes: transformers' own code, fastlora, or whichever is the faster one that can.
Implementation = Literal["auto", "reference", "fused"]
#: Experiment trackers.
Tracker = Literal["tensorboard", "mlflow", "wandb", "trackio"]

_LABEL = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"
_WORD = r"^[A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?$"
_DIGEST = r"^[0-9a-f]{64}$"
_SLICE = r"^\d*:\d*$"
_VARIABLE = r"^[A-Za-z_][A-Za-z0-9_]*$"
_INK = r"\S"
_INK_OR_NONE = r"^$|\S"
_REPO = r"^[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?/[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?$"
#: What these forms are, for people.
PATTERNS = {
    _LABEL: "lower-case letters, digits and hyphens between them",
    _WORD: "letters, digits, and hyphens and underscores between them",
    _DIGEST: "64 hexadecimal digits in lower case",
    _SLICE: "start:stop, as in 0:500 or :500",
    _VARIABLE: "the name of an environment variable",
    _INK: "more than white space",
    _INK_OR_NONE: "more than white space, or left out",
    _REPO: "a repository's name on the Hub, owner/name",
}

#: A name that may stand in Kubernetes' own names.
Label = Annotated[str, Field(pattern=_LABEL)]
#: Characters of the value of a label in Kubernetes.
LONGEST_NAME = 63
ConditionName = Annotated[str, Field(pattern=_LABEL, max_length=LONGEST_NAME)]
PersonaName = Annotated[str, Field(pattern=_WORD)]
Sha256 = Annotated[str, Field(pattern=_DIGEST)]
Slice = Annotated[str, Field(pattern=_SLICE)]
VariableName = Annotated[str, Field(pattern=_VARIABLE)]
#: What is to be read or found: an empty or blank one is a slip.
Ink = Annotated[str, Field(pattern=_INK)]
#: A title that need not be there.
Title = Annotated[str, Field(pattern=_INK_OR_NONE)]
RepoName = Annotated[str, Field(pattern=_REPO, max_length=96)]
#: More than anything that is counted here; far below what arithmetic holds exactly.
Count = Annotated[StrictInt, Field(ge=1, le=10**9)]
#: Draws of a test or an interval: so many take hours.
Draws = Annotated[StrictInt, Field(ge=1, le=10**7)]
Fraction = Annotated[float, Field(ge=0, le=1)]
#: What every generator of random numbers takes, and JSON and Helm carry exactly.
Seed = Annotated[StrictInt, Field(ge=0, lt=2**32)]

QuestionSource = Annotated[
    list[Annotated[str, Field(min_length=1)]] | str,
    Field(
        description="Questions: a list, or a file of them (YAML or JSON list, or .txt): a path, "
        "s3://bucket/key, or builtin:NAME."
    ),
]
