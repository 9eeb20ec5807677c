"""What came of the watches that are learned from, and how likely they were to be shown.

Letters: E events of a shard, L labels.
"""

from dataclasses import dataclass

import numpy as np

from recsys.data.examples import CandidateExamples
from recsys.data.timelines import Timelines


@dataclass(frozen=True)
class Feedback:
    """Of L labels.

    Args:
        watch_seconds: float32 [L], 0 where the log does not say.
        log_propensity: float32 [L], logarithm of the probability with which the logging policy
            showed the item, NaN where the log does not say.
    """

    watch_seconds: np.ndarray
    log_propensity: np.ndarray


def feedback_of(
    examples: CandidateExamples, timelines: Timelines, propensity: np.ndarray
) -> Feedback:
    """Find the events that labels are made of.

    Args:
        examples: Of a shard.
        timelines: Of the same users.
        propensity: float [E], NaN unknown.
    """
    watches = np.flatnonzero(timelines.is_watch)
    users = timelines.user_of_event()[watches]
    event = _number(
        np.concatenate([users, examples.user]),
        np.concatenate([timelines.moment[watches], examples.moment]),
        np.concatenate([timelines.item[watches], examples.item]),
    )
    # Of several alike the first: they are one watch, told twice.
    distinct, first = np.unique(event[: len(watches)], return_index=True)
    place = np.searchsorted(distinct, event[len(watches) :])
    own = watches[first[place]]
    seconds = np.maximum(timelines.watch_ms[own], 0) / 1000
    shown = propensity[own]
    is_known = shown > 0
    log_propensity = np.full(len(own), np.nan)
    log_propensity[is_known] = np.log(shown[is_known])
    return Feedback(seconds.astype(np.float32), log_propensity.astype(np.float32))


def _number(*columns: np.ndarray) -> np.ndarray:
    """Number the distinct rows of columns: int64 [n]."""
    number = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        _, own = np.unique(column, return_inverse=True)
        _, number = np.unique(number * (int(own.max(initial=0)) + 1) + own, return_inverse=True)
    return number
