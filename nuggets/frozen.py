"""The base of all values that are written to disk or shown."""

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """A value: it cannot change, and refuses fields that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")
