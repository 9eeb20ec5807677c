import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from recsys.experiment.interleaving import (
    balanced,
    balanced_credit,
    preference,
    team_credit,
    team_draft,
)


class Coins:
    """A generator whose coins are known."""

    def __init__(self, *coins):
        self._coins = iter(coins)

    def integers(self, _):
        return next(self._coins)


def test_team_draft_of_hand_worked_coins():
    first, second = np.array([1, 2, 3, 4]), np.array([3, 1, 5, 6])
    items, teams = team_draft(first, second, 5, rng=Coins(1, 0, 0))
    # Second leads: 3, then first's 1; first leads: 2, second's 5; first: 4.
    assert items.tolist() == [3, 1, 2, 5, 4]
    assert teams.tolist() == [1, 0, 0, 1, 0]


rankings = st.lists(st.integers(0, 12), max_size=8, unique=True).map(
    lambda items: np.array(items, np.int64)
)


@settings(max_examples=100, deadline=None)
@given(rankings, rankings, st.integers(1, 10), st.integers(0, 1000))
def test_pages_hold_the_best_of_both_without_repetition(first, second, length, seed):
    rng = np.random.default_rng(seed)
    items, teams = team_draft(first, second, length, rng=rng)
    for page in (items, balanced(first, second, length, first_leads=bool(seed % 2))):
        assert len(set(page.tolist())) == len(page)
        assert len(page) == min(length, len(set(first.tolist()) | set(second.tolist())))
        assert set(page.tolist()) <= set(first.tolist()) | set(second.tolist())
    for team, ranking in enumerate((first, second)):
        assert set(items[teams == team].tolist()) <= set(ranking.tolist())


@settings(max_examples=50, deadline=None)
@given(rankings, rankings, st.integers(1, 8), st.booleans())
def test_every_balanced_page_holds_as_much_of_both_tops(first, second, length, first_leads):
    page = set(balanced(first, second, length, first_leads=first_leads).tolist())
    # Joachims 2002: the page is the union of the top k and the top k or k + 1 of both.
    if len(page) < length or len(first) != len(second):
        return
    depths = [
        next((k for k, item in enumerate(r.tolist()) if item not in page), len(r))
        for r in (first, second)
    ]
    assert any(
        page == set(first[: k + extra_first].tolist()) | set(second[: k + extra_second].tolist())
        for k in range(max(depths) + 1)
        for extra_first, extra_second in ((0, 0), (1, 0), (0, 1))
    )


def test_balanced_page_by_hand():
    first, second = np.array([1, 2, 3, 4]), np.array([2, 5, 1, 6])
    assert balanced(first, second, 5, first_leads=True).tolist() == [1, 2, 5, 3, 4]
    assert balanced(first, second, 5, first_leads=False).tolist() == [2, 1, 5, 3, 6]


def test_longer_ranking_goes_on_alone():
    page = balanced(np.array([1]), np.array([2, 3, 4]), 9, first_leads=True)
    assert page.tolist() == [1, 2, 3, 4]


def test_team_credit_counts_rewards():
    assert team_credit(np.array([0, 1, 1]), np.array([5.0, 2.0, 1.0])) == (5, 3)


def test_balanced_credit_looks_no_deeper_than_the_lowest_click():
    first, second = np.array([1, 2, 3, 4]), np.array([2, 5, 1, 6])
    page = balanced(first, second, 5, first_leads=True)
    clicked = np.isin(page, [1, 5])
    # The lowest click, 5, is second's number two: tops {1, 2} and {2, 5}.
    assert balanced_credit(first, second, page, clicked) == (1, 1)
    assert balanced_credit(first, second, page, np.isin(page, [1])) == (1, 0)
    assert balanced_credit(first, second, page, np.zeros(5, bool)) == (0, 0)


def test_preference_of_hand_worked_pages():
    found = preference(np.array([1, 2, 0, 1]), np.array([0, 1, 0, 3]), np.arange(4))
    assert (found.wins, found.ties, found.losses) == (2, 1, 1)
    assert found.value == pytest.approx((2 + 0.5) / 4 - 0.5)
    signs = np.array([1, 1, 0, -1]) / 2
    assert found.high - found.value == pytest.approx(1.95996 * signs.std(ddof=1) / 2, rel=1e-5)


def test_preference_counts_users_not_pages():
    credit = np.random.default_rng(0).random((2, 50)).repeat(20, axis=1)
    pages = preference(*credit, np.arange(1000))
    users = preference(*credit, np.arange(1000) // 20)
    assert users.value == pages.value
    assert users.high - users.low > 4 * (pages.high - pages.low)


@pytest.mark.parametrize(("credit", "p_value"), [(0.0, 1.0), (1.0, 0.0)])
def test_pages_all_alike_leave_no_doubt(credit, p_value):
    assert preference(np.full(9, credit), np.zeros(9), np.arange(9)).p_value == p_value


def test_no_pages_are_refused():
    with pytest.raises(ValueError, match="expects pages"):
        preference(np.zeros(0), np.zeros(0), np.zeros(0, int))


def interleaved_p_value(first, second, seed, *, num_pages=200):
    """Users who click each item by what it is worth."""
    rng = np.random.default_rng(seed)
    credits = []
    for _ in range(num_pages):
        items, teams = team_draft(first, second, 5, rng=rng)
        credits.append(team_credit(teams, rng.random(len(items)) < items // 2 / 6))
    return preference(*np.array(credits).T, np.arange(num_pages)).p_value


def test_rankings_of_equal_worth_are_told_apart_by_chance_only():
    # Items 2n and 2n + 1 are worth the same.
    first, second = np.array([2, 8, 0, 6, 4]), np.array([3, 9, 1, 7, 5])
    p_values = [interleaved_p_value(first, second, seed) for seed in range(150)]
    rejected = int((np.array(p_values) < 0.05).sum())
    assert stats.binomtest(rejected, 150, 0.05).pvalue > 0.001


def test_better_ranking_is_found():
    assert interleaved_p_value(np.arange(11, 0, -1), np.arange(1, 12), 0) < 1e-6
