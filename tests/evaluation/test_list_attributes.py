import numpy as np
from scipy.sparse import csr_array

from recsys.evaluation.list_attributes import mean_age, topic_diversity
from recsys.evaluation.metrics import intra_list_diversity

TOPICS = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 0]], float)


def test_topic_diversity_is_one_less_the_cosine_of_pairs():
    lists = np.array([[0, 1, 2], [0, 1, 2], [0, 3, -1], [0, -1, -1], [4, 0, 1]])
    found = topic_diversity(lists, csr_array(TOPICS), 2)
    np.testing.assert_allclose(found, [0, 0, 1 - 1 / np.sqrt(2), np.nan, 1])
    np.testing.assert_allclose(topic_diversity(lists[:1], csr_array(TOPICS), 3), [2 / 3])


def test_topic_diversity_is_that_of_dense_vectors():
    rng = np.random.default_rng(1)
    topics = (rng.random((40, 6)) < 0.3).astype(float)
    lists = np.argsort(rng.random((25, 40)), axis=1)[:, :9]
    lists[rng.random(lists.shape) < 0.2] = -1
    expected = intra_list_diversity(lists, topics, 7)
    np.testing.assert_allclose(topic_diversity(lists, csr_array(topics), 7), expected, atol=1e-12)


def test_age_is_counted_from_the_request_over_items_whose_birth_is_known():
    born = np.array([10, 20, -99])
    lists = np.array([[0, 1, 2], [2, 0, 1], [2, -1, -1]])
    found = mean_age(lists, born, np.array([30, 40, 50]), 2, unknown=-99)
    np.testing.assert_allclose(found, [(20 + 10) / 2, 30, np.nan])
