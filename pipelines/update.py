"""Bring a run up to date: its candidate net learns the days that came since, and a bundle is made.

The new run prepares the log anew (rows follow today's counts) and goes on with the old net, row by
row of the same id; only watches that the old net has not learned from are learned. Items that are
new since then are served by what they share with others, where the net has such features.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from pipelines import run
from pipelines.config import override_settings
from pipelines.paths import RunPaths
from recsys.artefacts import hash_json
from recsys.bundle import read_settings
from recsys.errors import ConfigError
from recsys.settings import RecsysSettings


def main(
    older: Path,
    out: Path,
    overrides: Sequence[str],
    *,
    forced: bool = False,
    announce: Callable[[str], None] = print,
) -> None:
    """Make a run out of an older one.

    Args:
        older: Directory of the older run.
        out: Directory of the new run.
        overrides: Changes of the older run's settings: at least the cuts of the split.
        forced: Do finished steps again.
        announce: Takes a line for the user.

    Raises:
        ConfigError: Nothing of data and split is changed, so there is nothing new to learn.
    """
    run.main(updated_settings(older, overrides), out, forced=forced, announce=announce)


def updated_settings(older: Path, overrides: Sequence[str]) -> RecsysSettings:
    """Return the settings of the new run."""
    before = read_settings(RunPaths(older).bundle)
    after = override_settings(before, [*overrides, f"candidates.warm_start={older}"])
    if _log_of(before) == _log_of(after):
        raise ConfigError(
            f"{older}: the new run would have the log and the split of the old one, expected later "
            f"ones; move the cuts, as by --set split.validation_from=... --set split.test_from=..."
        )
    return after


def _log_of(settings: RecsysSettings) -> str:
    return hash_json(settings.model_dump(mode="json", include={"data", "split"}))
