"""The ranking stage: `[ranking]`."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from recsys.settings.base import Settings
from recsys.settings.layers import LayerSettings
from recsys.settings.training import TrainingSettings

HEADS = ("expected", "median", "completion", "click", "like", "percentile", "curve")
"""The heads of the ranking net, in the order of its outputs."""


class HeadSettings(Settings):
    """One head of the net: `[ranking.heads.NAME]`. Heads overfit at different speeds."""

    weight: float = Field(default=1.0, ge=0)
    """Of its loss in the sum; 0 leaves the head out."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Of what the head sees of the trunk."""


class HeadsSettings(Settings):
    """What the net predicts, all from one trunk: `[ranking.heads]`."""

    expected: HeadSettings = HeadSettings()
    """Mean watch seconds."""
    median: HeadSettings = HeadSettings(weight=0.0)
    """Median watch seconds, by absolute error; with the curve on, the mean of both medians is what
    is served."""
    completion: HeadSettings = HeadSettings()
    """Probability of `completion_column`."""
    click: HeadSettings = HeadSettings(weight=0.0)
    """Probability of a click."""
    like: HeadSettings = HeadSettings(weight=0.0)
    """Probability of `like_column`."""
    percentile: HeadSettings = HeadSettings(weight=0.0)
    """Percentile of the watch time among items of like duration (D2Q)."""
    curve: HeadSettings = HeadSettings()
    """Probabilities of watching longer than each of `num_thresholds` times (CREAD): the median, an
    interval, and what the mean is learned on top of."""

    def on(self) -> dict[str, HeadSettings]:
        """Return the heads that are on, by name, in the order of their outputs."""
        every = {name: getattr(self, name) for name in HEADS}
        return {name: head for name, head in every.items() if head.weight > 0}

    @model_validator(mode="after")
    def _check_what_is_served(self) -> Self:
        on = self.on()
        if not ({"expected", "completion"} <= set(on) and {"median", "curve"} & set(on)):
            raise ValueError(
                f"heads that are on: {list(on)}; expected at least 'expected', 'completion', and "
                f"one of 'median' and 'curve': give these a weight above 0"
            )
        return self


class ScoreSettings(Settings):
    """What candidates are ordered by: a sum of what the heads say: `[ranking.score]`.

    In seconds: `like = 30` says that a certain like is worth half a minute of watching.
    """

    expected_seconds: float = Field(default=1.0, ge=0)
    median_seconds: float = Field(default=0.0, ge=0)
    completion: float = Field(default=0.0, ge=0)
    click: float = Field(default=0.0, ge=0)
    like: float = Field(default=0.0, ge=0)
    percentile_seconds: float = Field(default=0.0, ge=0)

    def weights(self) -> dict[str, float]:
        """Return the weights above 0 by value of the heads."""
        return {name: weight for name, weight in self.model_dump().items() if weight > 0}


class RankingSettings(Settings):
    """The ranking net and its features."""

    enabled: bool = True
    user_categorical: tuple[str, ...] = ()
    """Columns of the event or else of the user."""
    item_categorical: tuple[str, ...] = ()
    """Columns of the item; a list column (`topics`) is a bag."""
    item_ids: bool = True
    """Learn a row of each item, of candidates, watches and newest events alike. With a few dozen
    impressions an item and less, rows learn noise, and counters say more without them."""
    user_numeric: tuple[str, ...] = ()
    item_numeric: tuple[str, ...] = ()
    bias_categorical: tuple[str, ...] = ()
    """Columns of the event that sway what was logged but are not known or not wanted when serving
    (`position`): they reach the heads through a shallow tower only, which is then left out."""
    bias_dropout: float = Field(default=0.1, ge=0, lt=1)
    """Share of the training rows whose bias columns are hidden."""
    history_length: int = Field(default=50, ge=1)
    recent_length: int = Field(default=20, ge=0)
    """Newest events, watched or not, that each candidate attends to; 0: none."""
    attention_width: int = Field(default=16, ge=2, multiple_of=2)
    attention_dropout: float = Field(default=0.5, ge=0, lt=1)
    hidden: tuple[int, ...] = (256, 128)
    """Widths of the layers; none leaves a linear net (but for the cross layers)."""
    layers: LayerSettings = LayerSettings()
    """Of all but the first layer, which is shared by a request's candidates, residual blocks."""
    num_experts: int = Field(default=1, ge=1)
    """Towers behind the first layer, which each head mixes by a gate of its own; 1: one shared."""
    gate_dropout: float = Field(default=0.1, ge=0, lt=1)
    cross_layers: int = Field(default=2, ge=0)
    cross_rank: int = Field(default=32, ge=1)
    embedding_scale: float = Field(default=4.0, gt=0)
    """Width of a table = scale x log2(rows), at least 4, at most `max_embedding_width`."""
    max_embedding_width: int = Field(default=32, ge=1)
    powers: bool = True
    num_quantiles: int = Field(default=100, ge=2)
    num_pieces: int = Field(default=1, ge=1)
    """Of each numeric input; must divide `num_quantiles`. More than 1 take the place of powers."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    embedding_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Of the embedded inputs, which overfit sooner than the counters."""
    numeric_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Of the numeric inputs' columns, as trees are each shown a part of the columns."""
    heads: HeadsSettings = HeadsSettings()
    num_thresholds: int = Field(default=32, ge=2)
    """Of the curve: at as many quantiles of the training rows' watch time."""
    num_duration_groups: int = Field(default=30, ge=1)
    """Of the percentile head: of equally many training rows each."""
    mean_correction_penalty: float = Field(default=0.5, ge=0)
    """With the curve on, on the variance of the logarithm by which the expected seconds leave the
    curve's own mean. The rare longest watches decide the mean, and say little about the order."""
    pairwise_weight: float = Field(default=0.0, ge=0)
    """Adds to the completion head's loss that of ordering pairs of one user's impressions.
    Raises AUC within users; some of it by undoing what running totals of the user say."""
    completion_column: str | None = None
    """Label of the completion head; without one, watched for its whole duration."""
    like_column: str | None = None
    """Label of the like head."""
    calibrate_durations: bool = True
    """Whether the factors on expected seconds also differ by the item's duration, which changes the
    served order."""
    score: ScoreSettings = ScoreSettings()
    score_by_surface: dict[str, ScoreSettings] = {}
    """Formulas of surfaces that are ordered otherwise: `[ranking.score_by_surface.NAME]`."""
    precision: Literal["float32", "int8", "auto"] = "float32"
    """Of the served net's large products. `auto` takes integers if they take at most 80 % of the
    time here and lose no more NDCG than `max_ndcg_loss`; what was measured is in precision.json."""
    max_ndcg_loss: float = Field(default=0.001, ge=0)
    """Relative, of NDCG@20 within users on the validation rows, gains being watch seconds."""
    ensemble: int = Field(default=1, ge=1)
    """Nets that are trained, each from a seed of its own; the mean of what they say is served. An
    answer takes as many times as long."""
    ensemble_bagged: bool = False
    """Train all but the first on rows drawn with replacement."""
    head_solver: Literal["none", "l-bfgs", "bfgs", "cg"] = "none"
    """Solve for the last layer over all training rows when the net is trained; kept if the
    validation is better by it."""
    head_iterations: int = Field(default=30, ge=1)
    head_penalty: float = Field(default=1e-3, ge=0)
    """Times half the squared distance of the last layer from where the training left it."""
    refit: bool = False
    """Train once more, from nothing and on the validation rows too, for as many epochs as were
    found best: a bundle that does not stop learning a day before it is made."""
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
        return {name: value for name, value in data.items() if name not in _COLUMNS}

    @model_validator(mode="after")
    def _check_pieces(self) -> Self:
        if self.num_quantiles % self.num_pieces:
            raise ValueError(
                f"num_pieces = {self.num_pieces} does not divide num_quantiles = "
                f"{self.num_quantiles}: choose a divisor"
            )
        if self.num_pieces > 1 and self.powers:
            raise ValueError("powers are of whole shares: set powers = false, or num_pieces = 1")
        return self

    @model_validator(mode="after")
    def _check_solver(self) -> Self:
        if self.head_solver != "none" and self.refit:
            raise ValueError(
                "head_solver needs validation rows to tell whether it helps, and refit leaves "
                "none: set one of them to its default"
            )
        return self

    @model_validator(mode="after")
    def _check_heads(self) -> Self:
        on = self.heads.on()
        if self.enabled and "like" in on and self.like_column is None:
            raise ValueError(
                "the like head is on, but like_column does not name the column of its labels: "
                "set it, or heads.like.weight = 0"
            )
        has_surface = "surface" in self.user_categorical
        if self.enabled and self.score_by_surface and not has_surface:
            raise ValueError(
                "score_by_surface needs 'surface' among user_categorical: add it, or leave the "
                "formulas out"
            )
        formulas = {"score": self.score} | {
            f"score_by_surface.{name}": score for name, score in self.score_by_surface.items()
        }
        for where, formula in formulas.items():
            missing = [name for name in formula.weights() if _HEAD_OF[name] not in on]
            if "curve" in on and "median_seconds" in missing:
                missing.remove("median_seconds")
            if missing or not formula.weights():
                raise ValueError(
                    f"{where}: expected a weight above 0 for at least one head that is on "
                    f"({list(on)}) and for no other, got {formula.weights()}"
                )
        return self


_COLUMNS = (
    "user_categorical",
    "item_categorical",
    "user_numeric",
    "item_numeric",
    "bias_categorical",
    "like_column",
    "completion_column",
)
_HEAD_OF = {
    "expected_seconds": "expected",
    "median_seconds": "median",
    "completion": "completion",
    "click": "click",
    "like": "like",
    "percentile_seconds": "percentile",
}
