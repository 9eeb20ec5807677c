"""Every setting of every step, as frozen models: what a TOML file under `pipelines/configs` says.

Read once by `pipelines.config`, stored with each artefact, passed in parts to functions. An
unknown key is an error. Units are in the names.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    field_validator,
    model_validator,
)

NegativeDistribution = Literal["uniform", "log_uniform", "frequency", "in_batch", "concurrent"]


class Settings(BaseModel):
    """Base of all sections: immutable, and strict about unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class WatchRule(Settings):
    """Which events are positive watches: a label column, or thresholds on the watch time.

    With a `column`, its value decides where it is present. Elsewhere the thresholds do: watched
    for at least `min_ms` or at least `min_fraction` of the duration, whichever is reached. An
    event whose watch time is unknown is a watch only if `unknown_is_watch`.
    """

    column: str | None = None
    min_ms: int = Field(default=1, ge=0)
    min_fraction: float | None = Field(default=None, gt=0)
    unknown_is_watch: bool = False


class DataSettings(Settings):
    """Where the log comes from, and how it is checked and laid out."""

    source: Literal["synthetic", "kuairand", "movielens", "globo", "sequences", "table"]
    path: str | None = None
    """Folder or file of the log; the synthetic source has none."""
    options: dict[str, str | int | float | bool | list[str] | dict[str, str]] = {}
    """What only this source understands: see the docstring of its module."""
    watch: WatchRule = WatchRule()
    earliest_time: str | None = None
    latest_time: str | None = None
    """ISO times (UTC); events outside are rejected."""
    max_rejected_share: float = Field(default=0.05, ge=0, le=1)
    shards: int = Field(default=4, ge=1)
    processes: int = Field(default=2, ge=1)
    max_items: int = Field(default=1_000_000, ge=1)
    """Items with a trained row; rarer ones are served from the catalogue without one."""
    min_item_watches: int = Field(default=1, ge=1)
    max_vocabulary: int = Field(default=1_000_000, ge=1)
    """Rows of every other vocabulary (users, search tokens, channels, ...)."""


class SplitSettings(Settings):
    """How the log is cut into training, validation and test.

    `leave_one_out`: of each user's watches the last is test, the one before it validation.
    `time`: events from `validation_from` on are validation, from `test_from` on test; both are
    ISO times (UTC), or dates compared with the `split_date` column where the source gives one.
    """

    kind: Literal["leave_one_out", "time"]
    validation_from: str | None = None
    test_from: str | None = None
    test_until: str | None = None
    """Events from here on are left out. Same form as `test_from`."""
    targets: Literal["all", "last_of_session"] = "all"
    """Which held-out watches the candidate stage is asked for. `last_of_session`: the last of
    each session of two watches or more."""


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
    patience: int = Field(default=3, ge=1)
    """Epochs without a better validation metric before the training stops."""
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


MEMBER_SETTINGS = frozenset(
    {
        "encoder",
        "windows",
        "encoder_length",
        "encoder_lookback",
        "encoder_dropout",
        "num_blocks",
        "num_heads",
        "embedding_width",
        "tower",
        "dropout",
        "temperature",
        "loss",
        "negatives",
        "max_positions_per_user",
        "max_sequence_length",
        "training",
    }
)
"""What the nets of `CandidateSettings.members` may have each for itself; not what they are told."""


class CandidateSettings(Settings):
    """The candidate net: history encoder, context, tower, loss."""

    encoder: Literal["bag", "gru", "attention"] = "bag"
    windows: tuple[int, ...] = (50,)
    """Each window w averages the newest w watches; several stand side by side."""
    encoder_length: int = Field(default=200, ge=1)
    """Newest watches that a gru or attention reads when serving."""
    encoder_lookback: int = Field(default=50, ge=1)
    """Watches before the first label of a piece of a long history that they read in training."""
    encoder_dropout: float = Field(default=0.0, ge=0, lt=1)
    num_blocks: int = Field(default=2, ge=1)
    num_heads: int = Field(default=2, ge=1)
    """Attention heads of a block; divides `embedding_width`."""
    watch_times: bool = False
    """Let attention see how much time lies between two watches."""
    embedding_width: int = Field(default=64, ge=1)
    tower: tuple[int, ...] = (512, 256)
    """Hidden ReLU widths; a linear layer to `embedding_width` follows."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    context: tuple[str, ...] = ()
    """Categorical columns of the event or else of the user: country, language, device, ..."""
    context_width: int = Field(default=8, ge=1)
    age: bool = False
    """Feed the user's age in years, as the share of a century, with its square and root."""
    searches: bool = False
    max_search_tokens: int = Field(default=50, ge=1)
    example_age: bool = False
    query_time: bool = False
    """Feed the hour of the day and the day of the week (UTC) of the request."""
    item_categorical: tuple[str, ...] = ()
    item_text: tuple[str, ...] = ()
    """Columns of the items whose hashed values, or words, share rows between items. With any,
    items without a watch have a vector too."""
    item_feature_buckets: int = Field(default=20_000, ge=1)
    max_item_features: int = Field(default=16, ge=1)
    own_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the items that must do without their own row in a step of the training."""
    popularity_minutes: tuple[PositiveInt, ...] = ()
    """Windows whose log-counts of watches are added to the scores with learned weights."""
    successor_windows: tuple[PositiveInt, ...] = ()
    """Add to the score of an item how often others watched it right after the user's last item:
    log-counts among the newest so many successors, with learned weights."""
    refresh_minutes: int = Field(default=1440, ge=1)
    """How stale counts and successors may be when serving: the time between two bundles."""
    similarity: Literal["inner_product", "cosine"] = "inner_product"
    temperature: float = Field(default=0.05, gt=0)
    """Starting temperature of the cosine; it is learned."""
    loss: Literal["full_softmax", "sampled_softmax"] = "full_softmax"
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the large products while training; vectors are served in float32. bfloat16 pays where
    the processor has it."""
    negatives: dict[NegativeDistribution, PositiveInt] = {"log_uniform": 2048}
    """Draws from each distribution; together they are the sample."""
    logq: Literal["none", "standard", "corrected"] = "corrected"
    """Correction of the sampled logits: of the negatives alone, as the label is not sampled
    (`corrected`), or of the label too (`standard`)."""
    by_time: bool = False
    """Take the batches of an epoch in the order of time, each of labels of about one time. What
    is newest is learned last, and no item is scored with what only later watches told of it."""
    slot_minutes: int = Field(default=60, ge=1)
    """Length of the time that the labels of a batch share."""
    max_positions_per_user: int = Field(default=64, ge=1)
    """Random positions of a user that give a loss in one epoch, so that users weigh alike."""
    max_sequence_length: int = Field(default=200, ge=2)
    """Longer users are cut into pieces, each with the lookback that the windows need."""
    validation_users: int = Field(default=5000, ge=1)
    warm_start: str | None = None
    """Directory of an older run of the same [candidates] section: its net is gone on with, and
    only the watches that it has not learned from are learned."""
    training: TrainingSettings = TrainingSettings()
    members: tuple[dict[str, Any], ...] = ()
    """Train several nets and let their vectors stand side by side: each is this section with
    some of its settings replaced. None: this section is the one net."""

    @model_validator(mode="after")
    def _check_members(self) -> Self:
        if self.members and (self.popularity_minutes or self.successor_windows):
            raise ValueError(
                "members: expected no popularity_minutes or successor_windows beside them; "
                "leave out one or the other"
            )
        for number, changes in enumerate(self.members):
            if wrong := sorted(set(changes) - MEMBER_SETTINGS):
                raise ValueError(
                    f"members[{number}]: {wrong[0]!r} is not a member's own, expected some of "
                    f"{', '.join(sorted(MEMBER_SETTINGS))}"
                )
        self.each_member()
        return self

    def each_member(self) -> "list[CandidateSettings]":
        """Return the settings of each net; of this one alone where there are no members."""
        if not self.members:
            return [self]
        common = self.model_dump(exclude={"members"})
        return [
            CandidateSettings.model_validate(
                {
                    **common,
                    **changes,
                    "training": {**common["training"], **changes.get("training", {})},
                }
            )
            for changes in self.members
        ]

    @property
    def validation_metric(self) -> str:
        """Which metric of the validation says which weights are best."""
        return "ndcg@10"

    @property
    def larger_is_better(self) -> bool:
        """Of the validation metric."""
        return True

    @property
    def history_length(self) -> int:
        """Newest watches that the served towers are given."""
        if self.members:
            return max(member.history_length for member in self.each_member())
        return max(self.windows + (() if self.encoder == "bag" else (self.encoder_length,)))

    @property
    def lookback(self) -> int:
        """Watches before a label that training shows it at least, where there are as many."""
        return max(self.windows + (() if self.encoder == "bag" else (self.encoder_lookback,)))


class IndexSettings(Settings):
    """How item vectors are searched."""

    kind: Literal["auto", "exact", "flat", "ivf", "hnsw", "ivf_sq8", "ivf_pq", "lsh"] = "auto"
    num_lists: int | None = None
    num_probes: int | None = None
    hnsw_links: int = 32
    ef_search: int = 400
    pq_bytes: int = 16
    lsh_bits: int = 512
    rescore_factor: int = Field(default=4, ge=1)
    """Compressed kinds fetch this many times k and re-score them exactly."""
    recall_floor: float = Field(default=0.95, ge=0, le=1)
    recall_k: int = Field(default=300, ge=1)
    use_gpu: bool = True
    """Taken where FAISS sees one."""


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


class ServingSettings(Settings):
    """What a bundle tells the server to do."""

    num_candidates: int = Field(default=300, ge=1)
    max_page_size: int = Field(default=100, ge=1)
    default_page_size: int = Field(default=20, ge=1)
    rewatch_surfaces: tuple[str, ...] = ()
    """Surfaces on which watched items may come back."""


class EvaluationSettings(Settings):
    """What `recsys evaluate` measures."""

    ks: tuple[int, ...] = (10, 50)
    max_users: int | None = None
    """A random sample of the test targets when there are more; None takes all."""
    seen_filtered: bool = True
    bootstrap_rounds: int = Field(default=1000, ge=100)
    baselines: tuple[
        Literal["popularity", "recent_popularity", "covisitation", "als", "lightgbm"], ...
    ] = ("popularity", "recent_popularity", "covisitation", "als", "lightgbm")
    recent_hours: float = Field(default=24.0, gt=0)


Choice = bool | int | float | str | tuple[int | float | str, ...] | dict[str, int]


class SearchRange(Settings):
    """What `recsys tune` tries for one setting: numbers from `low` to `high`, or `choices`."""

    low: float | None = None
    high: float | None = None
    """Both ends are tried."""
    log: bool = False
    """Every factor is as likely as every other, rather than every difference."""
    step: float | None = Field(default=None, gt=0)
    choices: tuple[Choice, ...] = ()

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Self:
        if self.choices:
            if self.low is not None or self.high is not None or self.step is not None or self.log:
                raise ValueError("expected choices alone, or low and high")
            return self
        if self.low is None or self.high is None or self.low >= self.high:
            raise ValueError("expected low and high, the smaller first, or choices")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("expected low > 0 and no step where log = true")
        steps = (self.high - self.low) / (self.step or (self.high - self.low))
        if abs(steps - round(steps)) > 1e-9:
            raise ValueError("expected a whole number of steps from low to high")
        return self


class TuneSettings(Settings):
    """What `recsys tune` searches, and for how long."""

    stage: Literal["candidates", "ranking"] = "candidates"
    trials: int = Field(default=30, ge=1)
    """Of the whole study, however often it is started."""
    max_seconds: float | None = Field(default=None, gt=0)
    """After so long no further trial is begun; starting it again goes on."""
    processes: int = Field(default=1, ge=1)
    """Trials at a time, each on its share of the cores."""
    space: dict[str, SearchRange] = {}
    """Setting -> what to try: `"candidates.dropout" = { low = 0, high = 0.5 }`."""

    @field_validator("space", mode="before")
    @classmethod
    def _flatten(cls, value: object) -> object:
        """Take the name of a setting without quotes too, which TOML reads as nested tables."""
        return dict(_leaves(value, "")) if isinstance(value, Mapping) else value


def _leaves(table: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        is_section = isinstance(value, Mapping) and any(
            isinstance(nested, Mapping) for nested in value.values()
        )
        if is_section:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


class RecsysSettings(Settings):
    """A whole run."""

    name: str
    seed: int = 0
    reproducible: bool = True
    data: DataSettings
    split: SplitSettings
    candidates: CandidateSettings = CandidateSettings()
    index: IndexSettings = IndexSettings()
    ranking: RankingSettings = RankingSettings()
    serving: ServingSettings = ServingSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    tune: TuneSettings = TuneSettings()
