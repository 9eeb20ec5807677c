"""The ranking stage: `[ranking]`."""

from typing import Any, Literal

from pydantic import Field, model_validator

from recsys.settings.base import Settings
from recsys.settings.training import TrainingSettings


class RankingSettings(Settings):
    """The ranking net and its features."""

    enabled: bool = True
    user_categorical: tuple[str, ...] = ()
    """Columns of the event or else of the user."""
    item_categorical: tuple[str, ...] = ()
    """Columns of the item; a list column (`topics`) is a bag."""
    user_numeric: tuple[str, ...] = ()
    item_numeric: tuple[str, ...] = ()
    history_length: int = Field(default=50, ge=1)
    hidden: tuple[int, ...] = (1024, 512, 256)
    embedding_scale: float = Field(default=4.0, gt=0)
    """Width of a table = scale x log2(rows), at least 4, at most `max_embedding_width`."""
    max_embedding_width: int = Field(default=32, ge=1)
    powers: bool = True
    num_quantiles: int = Field(default=100, ge=2)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    embedding_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Of the embedded inputs, which overfit sooner than the counters."""
    pairwise_weight: float = Field(default=0.0, ge=0)
    """Adds to the completion head's loss that of ordering pairs of one user's impressions.
    Raises AUC within users; some of it by undoing what running totals of the user say."""
    completion_column: str | None = None
    """Label of the completion head; without one, watched for its whole duration."""
    calibrate_durations: bool = True
    """Whether the factors on expected seconds also differ by the item's duration, which changes the
    served order."""
    validation_metric: Literal["mae_seconds", "xauc", "gauc", "loss"] = "loss"
    training: TrainingSettings = TrainingSettings(batch_size=1024)

    @property
    def larger_is_better(self) -> bool:
        """Of the validation metric."""
        return self.validation_metric in ("xauc", "gauc")

    @model_validator(mode="before")
    @classmethod
    def _read_nothing_when_disabled(cls, data: Any) -> Any:
        """Drop the columns of a disabled stage: nobody makes vocabularies for them."""
        if not isinstance(data, dict) or data.get("enabled", True) is not False:
            return data
        columns = ("user_categorical", "item_categorical", "user_numeric", "item_numeric")
        return {name: value for name, value in data.items() if name not in columns}
