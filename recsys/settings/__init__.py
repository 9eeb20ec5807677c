"""Every setting of every step, as frozen models: what a TOML file under `pipelines/configs` says.

Read once by `pipelines.config`, stored with each artefact, passed in parts to functions. An
unknown key is an error. Units are in the names.
"""

from recsys.settings.base import Settings
from recsys.settings.candidates import (
    FORECAST_STARTS,
    CandidateSettings,
    IndexSettings,
    NegativeDistribution,
    PolicyGradientSettings,
)
from recsys.settings.comparison import ComparisonSettings
from recsys.settings.data import DataSettings, SplitSettings, WatchRule
from recsys.settings.exploration import ExplorationSettings, OrderSettings
from recsys.settings.initial_items import (
    AutoEncoderSettings,
    SkipGramSettings,
    VariationalSettings,
)
from recsys.settings.layers import LayerSettings
from recsys.settings.ranking import RankingSettings, ScoreSettings
from recsys.settings.run import EvaluationSettings, RecsysSettings
from recsys.settings.serving import (
    ArrangementSettings,
    BoostSettings,
    ServingSettings,
    SourceSettings,
)
from recsys.settings.simulation import SimulationSettings
from recsys.settings.training import TrainingSettings
from recsys.settings.tune import Choice, SearchRange, TuneSettings

__all__ = [
    "FORECAST_STARTS",
    "ArrangementSettings",
    "AutoEncoderSettings",
    "BoostSettings",
    "CandidateSettings",
    "Choice",
    "ComparisonSettings",
    "DataSettings",
    "EvaluationSettings",
    "ExplorationSettings",
    "IndexSettings",
    "LayerSettings",
    "NegativeDistribution",
    "OrderSettings",
    "PolicyGradientSettings",
    "RankingSettings",
    "RecsysSettings",
    "ScoreSettings",
    "SearchRange",
    "ServingSettings",
    "Settings",
    "SimulationSettings",
    "SkipGramSettings",
    "SourceSettings",
    "SplitSettings",
    "TrainingSettings",
    "TuneSettings",
    "VariationalSettings",
    "WatchRule",
]
