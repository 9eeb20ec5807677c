"""What the item table of the candidate net begins with: `[candidates.skip_gram]` and its like."""

from typing import Literal

from pydantic import Field, PositiveInt

from recsys.settings.base import Settings

InitialItems = Literal["random", "skip_gram", "auto_encoder", "variational_auto_encoder"]


class SkipGramSettings(Settings):
    """Item vectors that foretell what is watched near an item (`recsys.candidates.skip_gram`)."""

    window: int = Field(default=5, ge=1)
    """Farthest watch that is foretold; how far it is looked, each watch draws from 1 to this."""
    num_negatives: int = Field(default=5, ge=1)
    """Of each pair."""
    subsample: float = Field(default=1e-3, ge=0)
    """Items with a larger share of the watches than this are left out now and then; 0: never."""
    pause_minutes: int | None = Field(default=30, ge=1)
    """A longer pause ends a session. None: all watches of a user are one session, as they are
    where a log knows only their order."""
    batch_size: int = Field(default=512, ge=1)
    """Pairs a step."""
    max_epochs: int = Field(default=10, ge=1)
    learning_rate: float = Field(default=3e-3, gt=0)


class AutoEncoderSettings(Settings):
    """What a user watched, through a narrow code (`recsys.candidates.auto_encoder`)."""

    hidden: tuple[PositiveInt, ...] = (32,)
    """Widths behind the first layer, whose width is `embedding_width`; the last is the code's."""
    dropout: float = Field(default=0.5, ge=0, lt=1)
    """Share of the watches that are hidden from the net in a step."""
    level_epochs: int = Field(default=5, ge=0)
    """Of each layer alone, before all are trained together; 0: never alone."""
    batch_size: int = Field(default=64, ge=1)
    """Users a step."""
    max_epochs: int = Field(default=30, ge=1)
    """Of all layers together."""
    learning_rate: float = Field(default=3e-3, gt=0)


class VariationalSettings(Settings):
    """The same with a code that is drawn (`recsys.candidates.variational`)."""

    code_width: int = Field(default=32, ge=1)
    """The one hidden layer before it, and the one behind, are `embedding_width` wide."""
    dropout: float = Field(default=0.5, ge=0, lt=1)
    """Share of the watches that are hidden from the net in a step."""
    beta: float = Field(default=0.2, ge=0)
    """Largest weight of the divergence from the prior."""
    annealing_epochs: int = Field(default=20, ge=0)
    """Over which the weight rises from 0; 0: it does not."""
    batch_size: int = Field(default=64, ge=1)
    """Users a step."""
    max_epochs: int = Field(default=40, ge=1)
    learning_rate: float = Field(default=3e-3, gt=0)
