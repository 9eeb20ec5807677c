"""Who sees which arm: decided by a hash of the user, so that nothing has to be stored.

The server and the analysis compute the same answer from the same salt. One number in [0, 1) says
whether a user is in the test at all, another which arm: raising the exposure adds users and moves
none. Another salt is another, independent split.

References:
    Kohavi, Longbotham, Sommerfield, Henne, Controlled experiments on the web, 2009, section 4.1.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

SCALE = 1 << 53
"""Hashes are whole numbers below it: a float holds them exactly."""
SPARE = 64 - 53
"""Bits of eight bytes that are not used."""
OUTSIDE = -1
"""Number of the arm of users who are not in the test."""
ROUNDING = 1e-9


@dataclass(frozen=True)
class Split:
    """How a test divides users.

    Args:
        salt: Name of the test, used for no other: two tests of one salt share their split.
        shares: Arm -> its share of the users in the test; they sum to 1.
        exposure: Share of all users who are in the test, 0 to 1.

    Raises:
        ValueError: The salt is empty, the shares do not sum to 1, or the exposure is no share.
    """

    salt: str
    shares: Mapping[str, float]
    exposure: float = 1.0

    def __post_init__(self) -> None:
        """Check the shares once, so that no user can fall between arms."""
        total = sum(self.shares.values())
        if abs(total - 1) > ROUNDING or min(self.shares.values(), default=-1) < 0:
            raise ValueError(f"expected shares of arms that sum to 1, got {dict(self.shares)}")
        if not self.salt or not 0 <= self.exposure <= 1:
            raise ValueError(
                f"expected a salt and an exposure from 0 to 1, got {self.salt!r} and "
                f"{self.exposure}"
            )

    @property
    def arms(self) -> tuple[str, ...]:
        """Names of the arms, in the order of their numbers."""
        return tuple(self.shares)

    def arm_of(self, user_id: str) -> str | None:
        """Return a user's arm, None outside the test."""
        digest = _hash(self._key(), user_id)
        exposure, place = (
            int.from_bytes(half, "big") >> SPARE for half in (digest[:8], digest[8:])
        )
        if exposure >= self.exposure * SCALE:
            return None
        return self.arms[bisect_right(self._edges(), place)]

    def arms_of(self, user_ids: Iterable[str]) -> np.ndarray:
        """Return the numbers of many users' arms, -1 outside the test: int64 [U]."""
        key = self._key()
        digests = b"".join([_hash(key, user_id) for user_id in user_ids])
        exposure, place = (np.frombuffer(digests, ">u8") >> np.uint64(SPARE)).reshape(-1, 2).T
        arm = np.searchsorted(self._edges(), place, side="right")
        return np.where(exposure >= self.exposure * SCALE, OUTSIDE, arm)

    def _key(self) -> bytes:
        return hashlib.sha256(self.salt.encode()).digest()

    def _edges(self) -> list[int]:
        """Return where each arm but the last ends, in units of the hash.

        The last has all that is left, so that a sum a rounding off 1 leaves no hash without an
        arm; where it has no share, the edge before it is SCALE, which no hash reaches.
        """
        sums = list(accumulate(self.shares.values()))
        return [SCALE if total > 1 - ROUNDING else round(total * SCALE) for total in sums[:-1]]


def _hash(key: bytes, user_id: str) -> bytes:
    return hashlib.blake2b(user_id.encode(), digest_size=16, key=key).digest()
