"""What the inputs of a ranking net are called, in which order, and how many codes each has."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recsys.data.vocabulary import Vocabulary
from recsys.errors import ArtefactError
from recsys.ranking.items import ItemFeatures
from recsys.ranking.recent import HALF_LIVES
from recsys.settings import RankingSettings

DURATION = "duration_seconds"
NUM_HOUR_CODES = 25
NUM_WEEKDAY_CODES = 8
"""One for an unknown time, then 24 hours and 7 days from Monday, in UTC."""

USER_NUMERIC = (
    "user_impressions",
    "user_watches",
    "user_watch_rate",
    "user_mean_watch_seconds",
    "user_seconds_since_event",
    "user_seconds_since_watch",
    *(
        f"user_{name}_last_{half_life}"
        for name in ("watch_rate", "log_seconds", "watched_share", "skip_rate")
        for half_life in HALF_LIVES
    ),
    "session_events",
    "session_seconds",
)
ITEM_NUMERIC = (
    DURATION,
    "item_age_seconds",
    "item_impressions",
    "item_watch_rate",
    "item_mean_watch_seconds",
    "item_click_rate",
    "channel_impressions",
    "channel_watch_rate",
    "channel_mean_watch_seconds",
    "channel_click_rate",
)
USER_ITEM_NUMERIC = (
    "user_item_impressions",
    "user_item_watches",
    "user_item_watch_rate",
    "user_item_mean_watch_seconds",
    "user_item_seconds_since",
    "user_channel_impressions",
    "user_channel_watches",
    "user_channel_watch_rate",
    "user_channel_mean_watch_seconds",
    "user_channel_seconds_since",
    "user_topic_impressions",
    "user_topic_watches",
    "user_topic_watch_rate",
    "user_topic_mean_watch_seconds",
    "user_topic_seconds_since",
    "retrieval_score",
    "retrieval_rank",
)


@dataclass(frozen=True)
class Priors:
    """What is expected of an event of which nothing else is known, from the training rows.

    Args:
        watch_rate: Positive watches per impression.
        mean_watch_seconds: Per event of known watch time.
        click_rate: Clicks per event of known watch time.
    """

    watch_rate: float
    mean_watch_seconds: float
    click_rate: float


@dataclass(frozen=True)
class FeatureSpec:
    """The inputs of one ranking net.

    Args:
        user_categorical: Column -> number of codes, in input order; then hour and weekday.
        item_categorical, item_bags: Column -> number of codes, in input order.
        user_numeric, item_numeric: Names of all numeric inputs, in order.
        bias_categorical: Column -> number of codes, of the shallow tower; not fed when serving.
        num_item_codes: Codes of the items themselves.
        history_length: Watches fed.
        recent_length: Newest events fed, watched or not.
        retrieval_trained: Whether any training row had a retrieval score; if none had, the net
            must be served without.
        priors: What rates are shrunk towards.
    """

    user_categorical: dict[str, int]
    item_categorical: dict[str, int]
    item_bags: dict[str, int]
    bias_categorical: dict[str, int]
    user_numeric: tuple[str, ...]
    item_numeric: tuple[str, ...]
    num_item_codes: int
    history_length: int
    recent_length: int
    retrieval_trained: bool
    priors: Priors

    def save(self, path: Path) -> None:
        """Write as JSON, keeping the order of the columns."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "FeatureSpec":
        """Read what `save` wrote.

        Raises:
            ArtefactError: The file is not such a description.
        """
        try:
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            numeric = {name: tuple(content[name]) for name in ("user_numeric", "item_numeric")}
            priors = Priors(**content["priors"])
            return cls(**{**content, **numeric, "priors": priors})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArtefactError(
                f"{path}: not a description of ranking features ({error!r}); "
                f"train the ranking net anew"
            ) from None


def new_spec(
    settings: RankingSettings,
    vocabularies: Mapping[str, Vocabulary],
    items: ItemFeatures,
    *,
    num_item_codes: int,
    retrieval_trained: bool,
    priors: Priors,
) -> FeatureSpec:
    """Describe the inputs that the settings ask for."""
    bags = [name for name in settings.item_categorical if items.codes[name].ndim == 2]
    single = [name for name in settings.item_categorical if name not in bags]
    user = {name: vocabularies[name].num_codes for name in settings.user_categorical}
    return FeatureSpec(
        user_categorical=user | {"hour": NUM_HOUR_CODES, "weekday": NUM_WEEKDAY_CODES},
        item_categorical={name: vocabularies[name].num_codes for name in single},
        item_bags={name: vocabularies[name].num_codes for name in bags},
        bias_categorical={name: vocabularies[name].num_codes for name in settings.bias_categorical},
        user_numeric=(*settings.user_numeric, *USER_NUMERIC),
        item_numeric=(*settings.item_numeric, *ITEM_NUMERIC, *USER_ITEM_NUMERIC),
        num_item_codes=num_item_codes,
        history_length=settings.history_length,
        recent_length=settings.recent_length,
        retrieval_trained=retrieval_trained,
        priors=priors,
    )


def duration_seconds(features: Mapping[str, np.ndarray], spec: FeatureSpec) -> np.ndarray:
    """Return the durations of the candidates among the features: float32 [Q, C], NaN unknown."""
    return features["candidate_numeric"][..., spec.item_numeric.index(DURATION)]


def feature_names(spec: FeatureSpec) -> dict[str, tuple[str, ...]]:
    """Return the names of the columns of every model input that has named columns."""
    return {
        "user_categorical": tuple(spec.user_categorical),
        "user_numeric": spec.user_numeric,
        "candidate_categorical": tuple(spec.item_categorical),
        "candidate_bags": tuple(spec.item_bags),
        "candidate_numeric": spec.item_numeric,
    }


def model_inputs(features: Mapping[str, np.ndarray]) -> list[str]:
    """Return the names of the features that have columns; only these are inputs of the net."""
    return [name for name, values in features.items() if 0 not in values.shape[1:]]
