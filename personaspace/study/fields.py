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

ConditionName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", max_length=63)]
PersonaName = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
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
