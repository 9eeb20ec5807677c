"""A whole run: one TOML file, and the section `[evaluation]`."""

from typing import Literal, Self

from pydantic import Field, model_validator

from recsys.settings.base import Settings
from recsys.settings.candidates import CandidateSettings, IndexSettings
from recsys.settings.data import DataSettings, SplitSettings
from recsys.settings.exploration import ExplorationSettings
from recsys.settings.ranking import RankingSettings
from recsys.settings.serving import ServingSettings
from recsys.settings.tune import TuneSettings


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
    exploration: ExplorationSettings = ExplorationSettings()
    serving: ServingSettings = ServingSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    tune: TuneSettings = TuneSettings()

    @model_validator(mode="after")
    def _check_exploration(self) -> Self:
        policy = self.serving.exploration.policy
        if policy == "thompson" and not self.exploration.enabled:
            raise ValueError(
                "serving.exploration.policy = 'thompson' draws from the neural process, which is "
                "off: set exploration.enabled = true, or choose another policy"
            )
        if (policy != "greedy" or self.exploration.enabled) and not self.ranking.enabled:
            raise ValueError(
                "exploration needs the ranking net, which is off: set ranking.enabled = true, or "
                "exploration.enabled = false and serving.exploration.policy = 'greedy'"
            )
        return self
