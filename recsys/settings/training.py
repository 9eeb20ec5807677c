"""One training run of either net: `[candidates.training]` and `[ranking.training]`."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from recsys.settings.base import Settings


class TrainingSettings(Settings):
    """One training run of either net."""

    batch_size: int = Field(default=256, ge=1)
    """Rows a step: user sequences (candidates) or impressions (ranking)."""
    max_epochs: int = Field(default=10, ge=1)
    optimizer: Literal[
        "sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam", "adamw", "adadelta"
    ] = "adam"
    """`adam` with a `weight_decay` is AdamW. `adadelta` wants a `learning_rate` of about 1."""
    learning_rate: float = Field(default=1e-3, gt=0)
    warmup_steps: int = Field(default=0, ge=0)
    decay: Literal["none", "linear", "cosine", "exponential"] = "none"
    """How the learning rate falls until the end of `max_epochs`: along a line or half a wave to 0,
    or by the same factor each step to `last_share` of it."""
    last_share: float = Field(default=0.01, gt=0, le=1)
    weight_decay: float = Field(default=0.0, ge=0)
    """Of the tables too where `table_optimizer` is `adam`, never under the other rules."""
    clip_norm: float | None = Field(default=None, gt=0)
    """Longest that the gradients of a step may be, all taken together."""
    clip_value: float | None = Field(default=None, gt=0)
    """Largest that an element of a gradient may be; applied first."""
    average_momentum: float | None = Field(default=None, gt=0, lt=1)
    """Validate and keep a running average of the weights: each step moves it by 1 - momentum."""
    table_optimizer: Literal["adam", "lazy_adam", "row_adagrad", "adagrad"] = "adam"
    """Of embedding and output tables. `adam` leaves them to `optimizer`, which changes every row in
    every step; the others only rows of the batch, which pays from tens of thousands of rows on."""
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
    tensorboard_details: bool = False
    """Also the length of the gradients, histograms of tables, the graph, and item vectors with
    titles: `--tensorboard` of the command."""

    @model_validator(mode="before")
    @classmethod
    def _read_older_name(cls, data: Any) -> Any:
        """Take `linear_decay`, as bundles made before this name have it."""
        if not isinstance(data, dict) or "linear_decay" not in data:
            return data
        others = {name: value for name, value in data.items() if name != "linear_decay"}
        return {**others, "decay": "linear"} if data["linear_decay"] else others

    @model_validator(mode="after")
    def _check_weight_decay(self) -> Self:
        if self.optimizer == "adamw" and not self.weight_decay:
            raise ValueError(
                "optimizer = 'adamw' is Adam with a weight_decay, got none: set one, or take 'adam'"
            )
        return self

    @model_validator(mode="after")
    def _check_average(self) -> Self:
        if self.average_momentum is not None and self.table_optimizer != "adam":
            raise ValueError(
                f"average_momentum goes with table_optimizer = 'adam', got "
                f"{self.table_optimizer!r}: an average of a table reads all of its rows in every "
                f"step, which the other rules are there to avoid; leave out one of both"
            )
        return self

    @model_validator(mode="after")
    def _check_table_learning_rate(self) -> Self:
        if self.table_optimizer == "adam" and self.table_learning_rate is not None:
            raise ValueError(
                f"table_learning_rate = {self.table_learning_rate:g} has no effect with "
                f"table_optimizer = 'adam': leave it out, or choose another table_optimizer"
            )
        return self
