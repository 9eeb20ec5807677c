"""What all sections of the settings share."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Base of all sections: immutable, and strict about unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")
