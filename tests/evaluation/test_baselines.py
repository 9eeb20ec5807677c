import numpy as np
import pytest

from recsys.evaluation import baselines
from recsys.evaluation.baselines import (
    MICROSECONDS_PER_HOUR,
    Covisitation,
    Ease,
    MatrixFactorization,
    Popularity,
    RecentPopularity,
    Watches,
)
from recsys.evaluation.ranking_baselines import fit_trees, item_means


def watches(lists, moments=None):
    offsets = np.concatenate([[0], np.cumsum([len(items) for items in lists])])
    items = np.array([item for items in lists for item in items], np.int32)
    return Watches(offsets, items, moments)


@pytest.fixture(scope="module")
def two_tastes():
    """60 users who watch within items 0-9, 60 within 10-19; item 20 is never watched."""
    rng = np.random.default_rng(0)
    lists = [(rng.permutation(10)[:6] + 10 * (user % 2)).tolist() for user in range(120)]
    return watches(lists)


def fit_all(log, num_items):
    return {
        "popularity": Popularity.fit(log, num_items),
        "covisitation": Covisitation.fit(log, num_items),
        "als": MatrixFactorization.fit(log, num_items, seed=0),
        "ease": Ease.fit(log, num_items, regularization=5.0),
    }


@pytest.mark.parametrize("name", ["popularity", "covisitation", "als", "ease"])
@pytest.mark.parametrize("seen_filtered", [True, False])
def test_lists_are_distinct_padded_at_the_end_and_free_of_seen_items(
    name, seen_filtered, two_tastes
):
    baseline = fit_all(two_tastes, 21)[name]
    histories = watches([[0, 1, 2], [], [13], list(range(20)), [20]])
    found = baseline.recommend(histories, 25, seen_filtered=seen_filtered)
    assert found.shape == (5, 25)
    for items, history in zip(
        found, np.split(histories.items, histories.offsets[1:-1]), strict=True
    ):
        listed = items[items >= 0]
        assert (items[: len(listed)] >= 0).all()
        assert len(np.unique(listed)) == len(listed)
        assert set(range(20)) - set(history.tolist() * seen_filtered) <= set(listed.tolist())
        if seen_filtered:
            assert not set(listed.tolist()) & set(history.tolist())


@pytest.mark.parametrize("name", ["covisitation", "als", "ease"])
def test_personal_baselines_find_the_taste(name, two_tastes):
    found = fit_all(two_tastes, 21)[name].recommend(
        watches([[0, 1], [10, 11]]), 5, seen_filtered=True
    )
    assert (found[0] < 10).all()
    assert ((found[1] >= 10) & (found[1] < 20)).all()


def test_popularity_orders_by_count_then_row():
    log = watches([[2, 1], [2, 0], [0, 3, 3]])
    found = Popularity.fit(log, 6).recommend(watches([[], [0, 3]]), 4, seen_filtered=True)
    assert found.tolist() == [[0, 2, 3, 1], [2, 1, -1, -1]]


def test_popularity_in_chunks_equals_at_once(two_tastes, monkeypatch):
    popular = Popularity.fit(two_tastes, 21)
    whole = popular.recommend(two_tastes, 5, seen_filtered=True)
    monkeypatch.setattr(baselines, "QUERY_CHUNK", 7)
    np.testing.assert_array_equal(popular.recommend(two_tastes, 5, seen_filtered=True), whole)


def test_recent_popularity_counts_only_the_window():
    hours = np.array([0, 1, 2, 9, 9.5]) * MICROSECONDS_PER_HOUR
    log = watches([[0, 0, 0, 1, 2]], hours.astype(np.int64))
    until = int(9.5 * MICROSECONDS_PER_HOUR)
    popular = Popularity.fit_recent(log, 3, hours=2, until=until)
    assert popular.recommend(watches([[]]), 3, seen_filtered=True).tolist() == [[1, -1, -1]]


def test_popularity_as_of_a_moment_ignores_the_future_and_the_far_past():
    rng = np.random.default_rng(0)
    moments = rng.integers(0, 100 * MICROSECONDS_PER_HOUR, 400)
    asked_at = rng.integers(20, 100, 25) * MICROSECONDS_PER_HOUR
    moments[100:125] = asked_at  # An event at the very moment is not seen.
    log = watches([rng.integers(0, 30, 400).tolist()], moments)
    found = RecentPopularity(log, 30, hours=24).recommend(
        watches([[]] * 25), 5, seen_filtered=False, moments=asked_at
    )
    for items, moment in zip(found, asked_at, strict=True):
        # Hours are whole numbers of refreshes, so nothing is stale here.
        window = (moments < moment) & (moments >= moment - 24 * MICROSECONDS_PER_HOUR)
        counts = np.bincount(log.items[window], minlength=30)
        assert items.tolist() == np.argsort(-counts, kind="stable")[:5].tolist()


def test_popularity_between_refreshes_is_stale_and_never_early():
    minute = MICROSECONDS_PER_HOUR // 60
    log = watches([[0, 1, 1]], np.array([0, 6 * minute, 7 * minute]))
    found = RecentPopularity(log, 2, hours=24).recommend(
        watches([[], []]), 1, seen_filtered=False, moments=np.array([9 * minute, 10 * minute])
    )
    assert found.tolist() == [[0], [1]]


def test_recent_popularity_needs_moments():
    with pytest.raises(ValueError, match="moments"):
        RecentPopularity(watches([[0]]), 1, hours=1)


def test_ease_weights_solve_the_ridge_regression_without_the_item_itself():
    log = watches([[0, 1], [0, 1, 2], [1, 2], [2, 3], [0, 3]])
    users, regularization = log.matrix(4).toarray().astype(np.float64), 2.0
    found = Ease.fit(log, 4, regularization=regularization)._weights
    for item in range(4):
        others = np.delete(np.arange(4), item)
        predictors = users[:, others]
        gram = predictors.T @ predictors + regularization * np.eye(3)
        expected = np.linalg.solve(gram, predictors.T @ users[:, item])
        np.testing.assert_allclose(found[others, item], expected, rtol=1e-5)
        assert found[item, item] == 0


def test_ease_refuses_a_catalogue_too_big_for_its_matrix():
    with pytest.raises(ValueError, match="at most 20,000 items, got 20,001"):
        Ease.fit(watches([[0]]), 20_001)


def test_covisitation_similarity_is_the_cosine_of_users():
    log = watches([[0, 1], [0, 1, 2], [0, 2], [3]])
    similarity = Covisitation.fit(log, 4)._similarity.toarray()
    users = np.array([[1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 1, 0], [0, 0, 0, 1]], float)
    unit = users / np.linalg.norm(users, axis=0)
    np.testing.assert_allclose(similarity, unit.T @ unit * (1 - np.eye(4)), atol=1e-6)


def test_covisitation_lets_every_recent_watch_vote():
    log = watches([[0, 1], [0, 1], [2, 3], [2, 3], [4]])
    found = Covisitation.fit(log, 5).recommend(watches([[0, 2]]), 2, seen_filtered=True)
    assert found.tolist() == [[1, 3]]


def test_newest_keeps_the_end_of_each_history():
    newest = watches([[1, 2, 3], [], [4]]).newest(2)
    assert newest.items.tolist() == [2, 3, 4]
    assert newest.offsets.tolist() == [0, 2, 2, 3]


def test_item_means_are_shrunk_towards_all():
    means = item_means(np.array([0, 0, 1, -1]), np.array([4.0, 8.0, 0.0, 0.0]), 3)
    assert means[0] == (12 + 10 * 3) / 12
    assert means[2] == means[-1] == 3


@pytest.mark.parametrize("objective, expected", [("l1", np.log(2)), ("l2", 1.0)])
def test_trees_learn_the_median_or_the_mean(objective, expected):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(4000, 3))
    labels = np.exp(features[:, 0]) * rng.exponential(size=4000)
    predict = fit_trees(
        objective,
        features[:3000],
        labels[:3000],
        validation=(features[3000:], labels[3000:]),
        seed=0,
    )
    middle = np.zeros((1, 3))
    assert predict(middle)[0] == pytest.approx(expected, rel=0.25)


def test_trees_of_a_binary_label_give_probabilities():
    rng = np.random.default_rng(0)
    features = rng.integers(0, 4, (4000, 1)).astype(float)
    labels = (rng.random(4000) < np.array([0.1, 0.7, 0.2, 0.9])[features[:, 0].astype(int)]) * 1.0
    predict = fit_trees(
        "binary", features, labels, validation=(features, labels), categorical=[0], seed=0
    )
    found = predict(np.arange(4.0)[:, None])
    np.testing.assert_allclose(found, [0.1, 0.7, 0.2, 0.9], atol=0.05)
