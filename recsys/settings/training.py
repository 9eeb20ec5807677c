"""One training run of either net: `[candidates.training]` and `[ranking.training]`."""

from typing import Literal, Self

from pydantic import Field, model_validator

from recsys.settings.base import Settings


class TrainingSettings(Settings):
    """One training run of either net."""

    batch_size: int = Field(default=256, ge=1)
    """Rows a step: user sequences (candidates) or impressions (ranking)."""
    max_epochs: int = Field(default=10, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    warmup_steps: int = Field(default=0, ge=0)
    linear_decay: bool = False
    """Lower the learning rate along a line that ends at 0 after `max_epochs`."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Of the tables too where `table_optimizer` is `adam`, never under the other rules."""
    table_optimizer: Literal["adam", "lazy_adam", "row_adagrad", "adagrad"] = "adam"
    """Of embedding and output tables. `adam` changes every row in every step, as it does the rest
    of the net; the others only rows of the batch, which pays from tens of thousands of rows on."""
    table_learning_rate: float | None = Field(default=None, gt=0)
    """Of a `table_optimizer` other than `adam`; None takes `learning_rate`."""
    keep: Literal["best", "last"] = "best"
    """Which epoch's weights: the best by its validation metric, or the last. If the learning rate
    falls to 0, earlier epochs are trainings cut short, and the best of them may be so by chance."""
    patience: int = Field(default=3, ge=1)
    """Epochs without a better validation metric before the training stops, if `keep` is `best`."""
    checkpoint_seconds: float = Field(default=60.0, gt=0)
    checkpoint_steps: int | None = Field(default=None, ge=1)
    """Save after every so many steps as well."""
    checkpoints_kept: int = Field(default=2, ge=1)
    max_loss_ratio: float = Field(default=10.0, gt=1)
    """Stop when the mean loss of the newest steps is above this many times that of the first."""
    max_seconds: float | None = Field(default=None, gt=0)
    """Wall-clock limit; the best weights so far are kept."""
    tensorboard: bool = True

    @model_validator(mode="after")
    def _check_table_learning_rate(self) -> Self:
        if self.table_optimizer == "adam" and self.table_learning_rate is not None:
            raise ValueError(
                f"table_learning_rate = {self.table_learning_rate:g} has no effect with "
                f"table_optimizer = 'adam': leave it out, or choose another table_optimizer"
            )
        return self
