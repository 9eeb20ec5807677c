"""How many calls each caller may make: a token bucket for each, of bounded number.

A bucket holds at most `burst` calls and fills by `calls_per_second`; a call takes one. The
caller seen longest ago is forgotten first, which costs nothing once its bucket is full again.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable

MAX_CALLERS = 10_000


class RateLimiter:
    """Buckets of callers, safe to use from several threads.

    Args:
        calls_per_second: By which a bucket fills.
        burst: Calls that a full bucket holds, at least 1.
        clock: Returns seconds that never go back.
        max_callers: Buckets kept.
    """

    def __init__(
        self,
        calls_per_second: float,
        burst: int,
        *,
        clock: Callable[[], float],
        max_callers: int = MAX_CALLERS,
    ) -> None:
        self._rate, self._burst = calls_per_second, burst
        self._clock, self._max_callers = clock, max_callers
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Return the number of callers remembered."""
        return len(self._buckets)

    def take(self, caller: str) -> float:
        """Take one call from a caller's bucket.

        Returns:
            0 if there was one; otherwise the seconds until there will be, and nothing is taken.
        """
        with self._lock:
            now = self._clock()
            level, moment = self._buckets.pop(caller, (float(self._burst), now))
            level = min(self._burst, level + (now - moment) * self._rate)
            is_allowed = level >= 1
            self._buckets[caller] = (level - is_allowed, now)
            if len(self._buckets) > self._max_callers:
                self._buckets.popitem(last=False)
        return 0.0 if is_allowed else (1 - level) / self._rate
