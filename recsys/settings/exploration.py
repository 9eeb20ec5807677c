"""Showing what may turn out better: `[exploration]` learns, `[serving.exploration]` orders."""

from typing import Literal, Self

from pydantic import Field, model_validator

from recsys.settings.base import Settings
from recsys.settings.training import TrainingSettings


class ExplorationSettings(Settings):
    """A conditional neural process over a user's newest watches of known time."""

    enabled: bool = False
    context_length: int = Field(default=20, ge=1)
    """Watches at most."""
    context_order: Literal["newest", "random"] = "newest"
    """Which watches stay where a training row's context is cut: the newest, or any."""
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
        batch_size=512, max_epochs=5, decay="linear", patience=2
    )


class OrderSettings(Settings):
    """How the final order of an answer is drawn: `[serving.exploration]`."""

    policy: Literal["greedy", "plackett_luce", "thompson"] = "greedy"
    """`greedy` orders by the score, always; `plackett_luce` draws each place by the softmax of
    score / temperature over what is left; `thompson` orders by a draw of each candidate's watch
    time from the neural process."""
    temperature: float | None = Field(default=None, ge=1e-6)
    """Of `plackett_luce`, in units of the score (seconds, by the default formula)."""
    max_known_watches: int | None = Field(default=None, ge=0)
    """Users of whom more watches are known get the greedy order; None explores for all."""

    @model_validator(mode="after")
    def _check_policy(self) -> Self:
        needs_temperature = self.policy == "plackett_luce"
        if needs_temperature != (self.temperature is not None):
            raise ValueError(
                f"policy = {self.policy!r} with temperature = {self.temperature}: expected a "
                f"temperature with 'plackett_luce', and none with another policy"
            )
        if self.policy == "greedy" and self.max_known_watches is not None:
            raise ValueError(
                f"max_known_watches = {self.max_known_watches} has no effect with policy = "
                f"'greedy': leave it out, or choose another policy"
            )
        return self
