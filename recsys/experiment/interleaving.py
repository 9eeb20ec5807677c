"""Interleaving: one page from two rankings, and whose items the user takes.

Each user is their own control, so a preference shows with far fewer users than in an A/B test; it
says which ranking is better, not by how much watch time.

    team draft   each round a coin says who picks first; each adds its best item not yet shown.
                 A click counts for the ranking that picked the item.
    balanced     one coin a page says who goes first; both lists are merged from the top. Clicks are
                 compared within the top of both lists that was needed to show the lowest clicked.

References:
    Joachims, Optimizing search engines using clickthrough data, KDD 2002 (balanced).
    Radlinski, Kurup, Joachims, How does clickthrough data reflect retrieval quality?, CIKM 2008
        (team draft).
    Chapelle, Joachims, Radlinski, Yue, Large-scale validation and analysis of interleaved search
        evaluation, TOIS 2012, eq. 2 (the preference).
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from recsys.evaluation.intervals import ratio_standard_error

FIRST, SECOND = 0, 1


@dataclass(frozen=True)
class Preference:
    """Which of two rankings users take more from.

    Args:
        wins, ties, losses: Pages on which the first ranking has more, equal or less credit.
        value: (wins + ties / 2) / pages - 1/2: 0 for neither, above for the first; -.5 to .5.
        low, high: 95 % interval of the value over users.
        p_value: Of the value being 0, over users, two-sided.
    """

    wins: int
    ties: int
    losses: int
    value: float
    low: float
    high: float
    p_value: float


def team_draft(
    first: np.ndarray, second: np.ndarray, length: int, *, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draft a page.

    Args:
        first, second: int [K], two rankings, best first, each without repetition.
        length: Of the page.
        rng: Of the coins, one a round.

    Returns:
        int64 [L] items and int64 [L], the team of each: 0 for the first ranking, 1 for the second.
        Shorter where both rankings are exhausted.
    """
    picks = (iter(first.tolist()), iter(second.tolist()))
    items: list[int] = []
    teams: list[int] = []
    shown: set[int] = set()
    while len(items) < length:
        before = len(items)
        leader = int(rng.integers(2))
        for team in (leader, 1 - leader):
            item = next((item for item in picks[team] if item not in shown), None)
            if item is not None and len(items) < length:
                items.append(item)
                teams.append(team)
                shown.add(item)
        if len(items) == before:
            break
    return np.array(items, np.int64), np.array(teams, np.int64)


def team_credit(teams: np.ndarray, rewards: np.ndarray) -> tuple[float, float]:
    """Return the reward (clicks, seconds) of each team's items: of int [L] and float [L]."""
    is_first = teams == FIRST
    return float(rewards[is_first].sum()), float(rewards[~is_first].sum())


def balanced(
    first: np.ndarray, second: np.ndarray, length: int, *, first_leads: bool
) -> np.ndarray:
    """Merge two rankings from the top.

    Args:
        first, second: int [K], best first, each without repetition.
        length: Of the page.
        first_leads: Whose item comes first where both are equally far; by a coin a page.

    Returns:
        int64 [L] items; shorter where both rankings are exhausted.
    """
    leading, following = (first, second) if first_leads else (second, first)
    merged = np.empty(len(first) + len(second), np.int64)
    shorter = min(len(first), len(second))
    merged[: 2 * shorter : 2], merged[1 : 2 * shorter : 2] = leading[:shorter], following[:shorter]
    merged[2 * shorter :] = (leading if len(leading) > shorter else following)[shorter:]
    _, place = np.unique(merged, return_index=True)
    return merged[np.sort(place)][:length]


def balanced_credit(
    first: np.ndarray, second: np.ndarray, page: np.ndarray, clicked: np.ndarray
) -> tuple[int, int]:
    """Count the clicks on the top of each ranking, down to where the lowest click was found.

    Args:
        first, second: int [K], the rankings.
        page: int [L], as merged by `balanced`.
        clicked: bool [L].

    Returns:
        Clicks on items of the first ranking's top k and of the second's, k the least depth at
        which either of them has the lowest clicked item.
    """
    taken = page[clicked]
    if len(taken) == 0:
        return 0, 0
    lowest = taken[-1]
    depths = [np.flatnonzero(ranking == lowest) for ranking in (first, second)]
    depth = min(int(found[0]) for found in depths if len(found)) + 1
    return (
        int(np.isin(taken, first[:depth]).sum()),
        int(np.isin(taken, second[:depth]).sum()),
    )


def preference(
    first_credit: np.ndarray, second_credit: np.ndarray, users: np.ndarray
) -> Preference:
    """Compare the credits of two rankings over S pages.

    Args:
        first_credit, second_credit: float [S].
        users: int [S], the user of each page.

    Raises:
        ValueError: There are no pages.
    """
    if len(users) == 0:
        raise ValueError("a preference expects pages, got none")
    sign = np.sign(np.asarray(first_credit, np.float64) - second_credit)
    value = float(sign.mean()) / 2
    error = ratio_standard_error(sign / 2, np.ones(len(sign)), users)
    reach = float(stats.norm.ppf(0.975)) * error
    if error == 0:
        p_value = 1.0 if value == 0 else 0.0
    else:
        p_value = float(2 * stats.norm.sf(abs(value) / error))
    return Preference(
        wins=int((sign > 0).sum()),
        ties=int((sign == 0).sum()),
        losses=int((sign < 0).sum()),
        value=value,
        low=value - reach,
        high=value + reach,
        p_value=p_value,
    )
