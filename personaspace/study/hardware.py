"""Parts of the spec: the machine that a study runs on. Nothing here is in a fingerprint."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from personaspace.study.fields import Count
from personaspace.study.section import Section


class Hardware(Section):
    """GPUs and cores of one host. Makes nothing run again.

    A training over several processes has dropout masks of its own in each: it is another one of the
    same recipe (without dropout, the same but for last digits), and recorded as such.
    """

    gpu_memory: Annotated[float, Field(gt=0, le=1000)] | None = Field(
        None,
        description="GB (10^9 bytes) of a GPU, as its maker names it: 24, 80, 141. What does not "
        "fit is then refused before anything runs. None: any card that is to be had.",
    )
    gpus: Annotated[Count, Field(le=16)] | None = Field(
        None,
        description="GPUs that a stage may spread the model over; in a cluster its pods ask for so "
        "many together. None: as many of those it sees as memory needs.",
    )
    sharding: Literal["auto", "none", "full"] = Field(
        "auto",
        description="Whether each GPU holds a part of every layer in training and for hidden "
        "states. auto: where one does not hold the model.",
    )
    cores: Annotated[Count, Field(le=1024)] | None = Field(
        None,
        description="Processes, a core each, that the statistics of hidden states are shared by. "
        "Their number changes no result. None: as many as there are cores for us, by affinity and "
        "the container's quota, while memory lasts.",
    )
