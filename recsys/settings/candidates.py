"""The candidate stage: `[candidates]` and `[index]`."""

from typing import Any, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from recsys.settings.base import Settings
from recsys.settings.initial_items import (
    AutoEncoderSettings,
    InitialItems,
    SkipGramSettings,
    VariationalSettings,
)
from recsys.settings.layers import LayerSettings
from recsys.settings.training import TrainingSettings

Encoder = Literal["bag", "gru", "lstm", "convolution", "attention", "capsules"]
NegativeDistribution = Literal["uniform", "log_uniform", "frequency", "in_batch", "concurrent"]

COLUMNS_PER_WINDOW = 2
"""See `recsys.candidates.counts`."""
FORECAST_STARTS = (0.0, 1 / 12, 1 / 3)
"""Shares of the horizon at which the parts of a forecast begin, each with a column of its own: of a
day, two hours, the next six, the rest."""
MEMBER_SETTINGS = frozenset(
    {
        "encoder",
        "windows",
        "encoder_length",
        "encoder_lookback",
        "encoder_dropout",
        "num_blocks",
        "num_heads",
        "filter_length",
        "filter_heights",
        "num_filters",
        "embedding_width",
        "tower",
        "layers",
        "shared_table",
        "skip",
        "dropout",
        "temperature",
        "loss",
        "negatives",
        "seen_hidden",
        "vector_scale",
        "max_positions_per_user",
        "max_sequence_length",
        "training",
    }
)
"""What the nets of `CandidateSettings.members` may have each for itself; not what they are told."""


class PolicyGradientSettings(Settings):
    """Learn what would have paid best instead of what was done: `docs/policy_gradient.md`."""

    top_k: int = Field(default=16, ge=1)
    """K, items that are shown at once; 1 looks for the single best."""
    weight_cap: float = Field(default=20.0, gt=0)
    """How many times as much as the log has it an action may count at most: about e^3."""
    reward: Literal["watch_seconds", "watch"] = "watch_seconds"
    """What a watch is worth: how long it was, over the mean; or all the same."""
    logged_propensities: bool = True
    """Take the probabilities of the logging policy where the log has them. Elsewhere, or without
    this everywhere, they are estimated beside the policy."""


class CandidateSettings(Settings):
    """The candidate net: history encoder, context, tower, loss."""

    encoder: Encoder = "bag"
    windows: tuple[int, ...] = (50,)
    """Each window w averages the newest w watches; several stand side by side."""
    encoder_length: int = Field(default=200, ge=1)
    """Newest watches that what reads beside the bags is given when serving."""
    encoder_lookback: int = Field(default=50, ge=1)
    """Watches before the first label of a piece of a long history that they read in training."""
    encoder_dropout: float = Field(default=0.0, ge=0, lt=1)
    num_blocks: int = Field(default=2, ge=1)
    num_heads: int = Field(default=2, ge=1)
    """Attention heads of a block; divides `embedding_width`."""
    filter_length: int = Field(default=8, ge=1)
    """Newest watches that the filters of a convolution see."""
    filter_heights: tuple[PositiveInt, ...] = (1, 2, 4)
    num_filters: int = Field(default=16, ge=1)
    """Of each height."""
    num_interests: int = Field(default=4, ge=2)
    """Vectors that capsules give a user: an item scores by the nearest of them."""
    routing_rounds: int = Field(default=3, ge=1)
    watch_times: bool = False
    """Let attention see how much time lies between two watches."""
    embedding_width: int = Field(default=64, ge=1)
    tower: tuple[int, ...] = (512, 256)
    """Hidden widths; a linear layer to `embedding_width` follows."""
    layers: LayerSettings = LayerSettings()
    shared_table: bool = False
    """Embed watched items and score items by one table: half the weights, for small logs."""
    skip: bool = False
    """Add what the encoder gives, each part with a learned weight, to the user vector, past the
    tower: the tower then learns what a sum of watched items does not say."""
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
    minutes_since_watch: bool = False
    """Feed how long ago the user's last watch was: what goes on differs from what begins."""
    item_categorical: tuple[str, ...] = ()
    item_text: tuple[str, ...] = ()
    """Columns of the items whose hashed values, or words, share rows between items. With any,
    items without a watch have a vector too."""
    item_feature_buckets: int = Field(default=20_000, ge=1)
    max_item_features: int = Field(default=16, ge=1)
    own_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the items that must do without their own row in a step of the training."""
    popularity_minutes: tuple[PositiveInt, ...] = ()
    """Windows whose counts of watches are added to the scores with learned weights."""
    successor_windows: tuple[PositiveInt, ...] = ()
    """Add to the score of an item how often others watched it right after the user's last item:
    counts among the newest so many successors, with learned weights."""
    refresh_minutes: int = Field(default=1440, ge=1)
    """How stale counts and successors may be when serving: the time between two bundles."""
    forecast_minutes: int | None = Field(default=None, ge=1)
    """Serve, in place of the counts, how much each item is expected to be watched in so many
    minutes, the time between two bundles (`recsys.candidates.forecast`): soon after the bundle was
    made, later, at its end. Training then takes counts as fresh as `refresh_minutes` says, so that
    the vectors need not say what is popular."""
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
    policy_gradient: PolicyGradientSettings | None = None
    """Weigh each watch by what it was worth and how rarely the logging policy shows it. With the
    full softmax all logits of a batch are held at once."""
    vector_scale: float = Field(default=1.0, ge=0)
    successor_scale: float = Field(default=1.0, ge=0)
    popularity_shift: tuple[float, ...] = ()
    """Of what is served, not of what is trained: factors of the vectors and of the successors'
    weights, and what is added to the weight of each window's logarithm. What is likely for all
    watches is not quite what ranks best; choose them by the validation part."""
    seen_hidden: bool = False
    """Leave the items that a user has watched out of their negatives, as answers leave them out.
    Else the net learns that what is popular now is not watched next: its users have seen it."""
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
    initial_items: InitialItems = "random"
    """What the table of watched items begins with, of each member too: chance, or the vectors of a
    net trained before (`recsys.candidates.initial_items`). A `warm_start` has rows of its own."""
    skip_gram: SkipGramSettings = SkipGramSettings()
    auto_encoder: AutoEncoderSettings = AutoEncoderSettings()
    variational_auto_encoder: VariationalSettings = VariationalSettings()
    training: TrainingSettings = TrainingSettings()
    members: tuple[dict[str, Any], ...] = ()
    """Train several nets and let their vectors stand side by side: each is this section with
    some of its settings replaced. None: this section is the one net."""

    @model_validator(mode="after")
    def _check_popularity(self) -> Self:
        if self.popularity_shift and len(self.popularity_shift) != len(self.popularity_minutes):
            raise ValueError(
                f"popularity_shift: expected as many numbers as popularity_minutes has "
                f"({len(self.popularity_minutes)}), got {len(self.popularity_shift)}"
            )
        if self.forecast_minutes and (self.popularity_shift or not self.popularity_minutes):
            raise ValueError(
                "forecast_minutes: expected popularity_minutes for the training and no "
                "popularity_shift, since a forecast is served in place of the counts"
            )
        return self

    @model_validator(mode="after")
    def _check_seen_hidden(self) -> Self:
        if self.seen_hidden and self.loss != "sampled_softmax":
            raise ValueError(
                f"seen_hidden needs loss = 'sampled_softmax', got {self.loss!r}: change it, or "
                f"leave seen_hidden out"
            )
        return self

    @model_validator(mode="after")
    def _check_encoder(self) -> Self:
        tallest = max(self.filter_heights, default=0)
        if self.encoder == "convolution" and not 0 < tallest <= self.filter_length:
            raise ValueError(
                f"filter_heights: expected heights of at most filter_length "
                f"({self.filter_length}), got {self.filter_heights}: lower them, or raise it"
            )
        of_one_vector = ("members", "popularity_minutes", "successor_windows", "policy_gradient")
        if self.interests > 1 and any(getattr(self, name) for name in of_one_vector):
            raise ValueError(
                f"encoder = 'capsules' goes without {', '.join(of_one_vector)}, which are of one "
                f"vector a user: leave them out, or choose another encoder"
            )
        return self

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

    @model_validator(mode="after")
    def _check_initial_items(self) -> Self:
        if self.initial_items != "random" and (self.item_categorical or self.item_text):
            raise ValueError(
                f"initial_items = {self.initial_items!r} gives each item a row of its own to begin "
                f"with, and would be added to the shared rows of item_categorical and item_text: "
                f"leave these out, or begin with 'random'"
            )
        fields = type(self).model_fields
        for name in ("skip_gram", "auto_encoder", "variational_auto_encoder"):
            if name != self.initial_items and getattr(self, name) != fields[name].default:
                raise ValueError(
                    f"[candidates.{name}] has no effect with initial_items = "
                    f"{self.initial_items!r}: leave it out, or set initial_items = {name!r}"
                )
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

    def as_trained(self) -> "CandidateSettings":
        """Return these settings with their defaults for what changes nothing about a training."""
        served_only = ("vector_scale", "successor_scale", "popularity_shift", "forecast_minutes")
        defaults = {name: type(self).model_fields[name].default for name in served_only}
        return self.model_copy(update=defaults)

    @property
    def interests(self) -> int:
        """K, vectors of a user."""
        return self.num_interests if self.encoder == "capsules" else 1

    @property
    def num_popularity_columns(self) -> int:
        """K, of the recent popularity."""
        return COLUMNS_PER_WINDOW * len(self.popularity_minutes)

    @property
    def num_served_popularity_columns(self) -> int:
        """Of the counts, or of the forecast in their place."""
        return len(FORECAST_STARTS) if self.forecast_minutes else self.num_popularity_columns

    @property
    def num_successor_columns(self) -> int:
        """W, of the successors."""
        return COLUMNS_PER_WINDOW * len(self.successor_windows)

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
    rescore_factor: float | None = Field(default=None, ge=1)
    """Compressed kinds fetch this many times k and score them exactly. None: found by the sweep of
    the probes; 4 for `lsh`, which has none."""
    recall_floor: float = Field(default=0.95, ge=0, le=1)
    recall_k: int = Field(default=300, ge=1)
    use_gpu: bool = True
    """Taken where FAISS sees one."""
