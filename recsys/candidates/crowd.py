"""What all users did lately, as of any moment: what a net of yesterday cannot know."""

from dataclasses import dataclass

from recsys.candidates.forecast import WatchForecast
from recsys.candidates.popularity import MICROSECONDS_PER_MINUTE, RecentPopularity
from recsys.candidates.successors import Successors
from recsys.data.timelines import WatchHistories
from recsys.settings import CandidateSettings


@dataclass(frozen=True)
class Crowd:
    """The parts that the settings use.

    Args:
        popularity: Watches of each item in the last minutes, or those expected in the next.
        successors: What followed each item.
    """

    popularity: RecentPopularity | WatchForecast | None = None
    successors: Successors | None = None

    @classmethod
    def of(cls, histories: WatchHistories, num_items: int, settings: CandidateSettings) -> "Crowd":
        """Collect what the settings use from the watches of all users."""
        popularity = successors = None
        if settings.popularity_minutes:
            popularity = RecentPopularity(
                histories.code - 1,
                histories.moment,
                num_items=num_items,
                minutes=settings.popularity_minutes,
                refresh_minutes=settings.refresh_minutes,
            )
        if settings.successor_windows:
            refresh_us = settings.refresh_minutes * MICROSECONDS_PER_MINUTE
            successors = Successors(histories, num_items=num_items, refresh_us=refresh_us)
        return cls(popularity, successors)

    @classmethod
    def forecast(
        cls,
        histories: WatchHistories,
        num_items: int,
        settings: CandidateSettings,
        horizon_minutes: int,
        *,
        learned_until: int,
    ) -> "Crowd":
        """Forecast the popularity; successors are those known when the horizon began.

        Args:
            histories: Watches of all users.
            num_items: N, trained items.
            settings: Which parts.
            horizon_minutes: Time between two bundles.
            learned_until: The forecast learns from the watches before this moment.
        """
        forecast = WatchForecast(
            histories.code - 1,
            histories.moment,
            num_items=num_items,
            horizon_minutes=horizon_minutes,
            learned_until=learned_until,
        )
        aged = {"refresh_minutes": horizon_minutes, "popularity_minutes": ()}
        successors = cls.of(histories, num_items, settings.model_copy(update=aged)).successors
        return cls(forecast, successors)


NOBODY = Crowd()
