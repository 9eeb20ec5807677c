"""The neural process of users of whom little is known: `[exploration]`."""

from typing import Literal

from pydantic import Field

from recsys.settings.base import Settings
from recsys.settings.training import TrainingSettings


class ExplorationSettings(Settings):
    """A conditional neural process over a user's newest (item, watch time) pairs."""

    context_length: int = Field(default=20, ge=1)
    """Pairs at most."""
    context_order: Literal["newest", "random"] = "newest"
    """Which pairs stay where a training row's context is cut: the newest, or any."""
    encoder: tuple[int, ...] = Field(default=(128, 128, 128, 128), min_length=1)
    decoder: tuple[int, ...] = Field(default=(128, 128), min_length=1)
    embedding_scale: float = Field(default=1.0, gt=0)
    """Width of a table = scale x log2(rows), at least 4, at most `max_embedding_width`."""
    max_embedding_width: int = Field(default=8, ge=1)
    embedding_dropout: float = Field(default=0.5, ge=0, lt=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Of the decoder's hidden layers."""
    num_quantiles: int = Field(default=20, ge=2)
    completion_weight: float = Field(default=1.0, ge=0)
    """Of the completion output's loss beside the likelihood of the watch time."""
    training: TrainingSettings = TrainingSettings(
        batch_size=512, max_epochs=5, linear_decay=True, patience=2
    )
