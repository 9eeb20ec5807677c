import hashlib
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from recsys.experiment.assignment import Split

USERS = [f"u{number}" for number in range(20_000)]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.text(), max_size=30),
    st.text(min_size=1),
    st.lists(st.integers(0, 5), min_size=1, max_size=5).filter(any),
    st.sampled_from([0.0, 0.3, 1.0]),
)
def test_many_users_get_what_each_gets_alone(user_ids, salt, parts, exposure):
    shares = {f"arm{number}": part / sum(parts) for number, part in enumerate(parts)}
    split = Split(salt, shares, exposure=exposure)
    names = [split.arms[number] if number >= 0 else None for number in split.arms_of(user_ids)]
    assert names == [split.arm_of(user_id) for user_id in user_ids]


def test_arms_are_those_of_the_hash_worked_by_hand():
    split = Split("salt", {"a": 0.3, "b": 0.7}, exposure=0.5)
    key = hashlib.sha256(b"salt").digest()
    for user_id in USERS[:50]:
        digest = hashlib.blake2b(user_id.encode(), key=key, digest_size=16).digest()
        exposure, place = (int.from_bytes(d, "big") / 2**64 for d in (digest[:8], digest[8:]))
        expected = None if exposure >= 0.5 else "a" if place < 0.3 else "b"
        assert split.arm_of(user_id) == expected


def test_shares_and_exposure_are_kept():
    split = Split("s", {"a": 0.2, "b": 0.5, "c": 0.3}, exposure=0.6)
    arms = split.arms_of(USERS)
    expected = np.array([0.4, 0.12, 0.3, 0.18]) * len(USERS)
    assert stats.chisquare(np.bincount(arms + 1), expected).pvalue > 0.001


def test_another_salt_is_an_independent_split():
    shares = {"a": 0.5, "b": 0.5}
    first, second = (Split(salt, shares).arms_of(USERS) for salt in ("one", "two"))
    table = np.histogram2d(first, second, bins=2)[0]
    assert stats.chi2_contingency(table).pvalue > 0.001


def test_more_exposure_adds_users_and_moves_none():
    shares = {"a": 0.5, "b": 0.5}
    few, many = (Split("s", shares, exposure=e).arms_of(USERS) for e in (0.1, 0.5))
    assert (few[few >= 0] == many[few >= 0]).all()
    assert (many >= 0).sum() > 4 * (few >= 0).sum()


def test_exposure_says_nothing_about_the_arm():
    arms = Split("s", {"a": 0.5, "b": 0.5}, exposure=0.1).arms_of(USERS)
    assert stats.binomtest(int((arms == 0).sum()), int((arms >= 0).sum())).pvalue > 0.001


def test_split_of_today_is_that_of_tomorrow():
    # Written down once: another answer would move the users of every running test.
    split = Split("ranking-2026", {"control": 0.5, "treatment": 0.5})
    assert split.arms_of(["1", "2", "3", "4", "é", ""]).tolist() == [0, 0, 1, 1, 0, 0]


@pytest.mark.parametrize("shares", [{"a": 0.5, "b": 0.4}, {"a": 1.5, "b": -0.5}, {}])
def test_shares_that_are_no_split_are_refused(shares):
    with pytest.raises(ValueError, match="sum to 1"):
        Split("s", shares)


@pytest.mark.parametrize(("salt", "exposure"), [("", 1.0), ("s", 1.1), ("s", -0.1)])
def test_missing_salt_and_impossible_exposure_are_refused(salt, exposure):
    with pytest.raises(ValueError, match="a salt and an exposure"):
        Split(salt, {"a": 1.0}, exposure=exposure)


def test_assignment_needs_no_heavy_import():
    code = (
        "import sys, recsys.experiment.assignment;"
        "print([m for m in ('scipy', 'pandas', 'pyarrow', 'keras') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
