"""What counts as a positive watch: one rule for training and for serving."""

import numpy as np

from recsys.settings import WatchRule


def positive_watches(
    rule: WatchRule, watch_ms: np.ndarray, duration_ms: np.ndarray, label: np.ndarray
) -> np.ndarray:
    """Decide which events are positive watches.

    A label that is given decides. Elsewhere the watch time does: at least `min_ms`, or at least
    `min_fraction` of a known duration; unknown watch times follow `unknown_is_watch`.

    Args:
        rule: The configured thresholds.
        watch_ms: int64 [E], -1 unknown.
        duration_ms: int64 [E], 0 and less unknown.
        label: int8 [E], the rule's column: 1 yes, 0 no, -1 not given.

    Returns:
        bool [E].
    """
    long_enough = watch_ms >= rule.min_ms
    if rule.min_fraction is not None:
        long_enough |= (duration_ms > 0) & (watch_ms >= rule.min_fraction * duration_ms)
    by_time = np.where(watch_ms < 0, rule.unknown_is_watch, long_enough)
    return np.where(label >= 0, label > 0, by_time)
