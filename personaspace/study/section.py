"""What every part of the spec is."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator


class Section(BaseModel):
    """Base of every part of the spec: unknown fields are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        # pydantic takes true for 1.0.
        field = cls.model_fields.get(info.field_name or "")
        if field is not None and "float" in str(field.annotation):
            for each in value if isinstance(value, list) else [value]:
                if isinstance(each, bool):
                    raise ValueError(f"must be a number (got {each})")
        # A section whose lines are all commented out.
        if value is None and field is not None and isinstance(field.annotation, type):
            return field.default if isinstance(field.default, Section) else None
        return value

    #: Fields that came after studies had been stored. At their defaults they do what was done
    #: before there was a choice, and no fingerprint knows of them.
    later: ClassVar[frozenset[str]] = frozenset()

    #: Defaults that studies stored before had under another name: what fingerprints know them as.
    formerly: ClassVar[Mapping[str, Any]] = {}

    def known_as(self) -> dict[str, Any]:
        """Fields of `formerly` that are at their defaults, as fingerprints know them."""
        fields = type(self).model_fields
        return {n: v for n, v in self.formerly.items() if getattr(self, n) == fields[n].default}

    def unused(self) -> set[str]:
        """Fields of `later` that are at their defaults, which fingerprints leave out."""
        fields = type(self).model_fields
        return {name for name in self.later if getattr(self, name) == fields[name].default}

    def told(self, exclude: Collection[str] = ()) -> dict[str, Any]:
        """Its fields as JSON takes them, without those of `later` that are at their defaults."""
        told = self.model_dump(mode="json", exclude={*exclude, *self.unused()})
        told |= self.known_as()
        for name in told:
            value = getattr(self, name)
            if isinstance(value, Section):
                told[name] = value.told()
            elif isinstance(value, list):
                told[name] = [
                    item.told() if isinstance(item, Section) else plain
                    for item, plain in zip(value, told[name], strict=True)
                ]
        return told
