"""What every part of the spec is."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Base of every part of the spec: unknown fields are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    #: Fields that came after studies had been stored. At their defaults they do what was done
    #: before there was a choice, and no fingerprint knows of them.
    later: ClassVar[frozenset[str]] = frozenset()

    def unused(self) -> set[str]:
        """Fields of `later` that are at their defaults, which fingerprints leave out."""
        fields = type(self).model_fields
        return {name for name in self.later if getattr(self, name) == fields[name].default}
