"""Base classes of typed, immutable results of commands and public functions, with valid JSON (no NaN)."""

import json
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict

SCHEMA_VERSION = 3  # of every result written as JSON; docs/evaluation.md lists the changes

Number = Annotated[float, BeforeValidator(lambda value: float("nan") if value is None else value)]
"""A float that is null in JSON where it is not finite, because there was nothing to measure."""


class Result(BaseModel):
    """A part of a result; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null", protected_namespaces=())

    def as_json(self, indent: int | None = None) -> str:
        """Return the fields as JSON, numbers that are not finite as null."""
        return self.model_dump_json(indent=indent)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain values for JSON."""
        return json.loads(self.as_json())


class Document(Result):
    """A result that stands alone; `schema_version` is that of docs/evaluation.md."""

    schema_version: int = SCHEMA_VERSION
