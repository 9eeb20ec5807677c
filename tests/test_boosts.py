from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

from recsys.boosts import Boosts
from recsys.data.catalogue import Catalogue
from recsys.data.vocabulary import Vocabulary
from recsys.eligibility import Eligibility
from recsys.errors import ConfigError
from recsys.settings import BoostSettings

NOW = int(datetime(2026, 1, 9, tzinfo=UTC).timestamp() * 1e6)
SECONDS = np.array([10.0, 20.0, 30.0, 40.0])


@pytest.fixture(scope="module")
def catalogue():
    table = pa.table(
        {
            "item_id": ["a", "b", "c", "d"],
            "channel_id": ["x", "y", "x", None],
            "topics": [["news"], ["sport", "news"], [], None],
            "language": ["nl", "nl", "en", None],
            "upload_time": pa.array(
                [datetime(2026, 1, day, tzinfo=UTC) for day in (1, 8)]
                + [datetime(2026, 1, 10, tzinfo=UTC), None],
                pa.timestamp("us", tz="UTC"),
            ),
            "is_premium": [True, False, None, True],
            "tier": [1, 2, 1, None],
        }
    )
    return Catalogue(Vocabulary.from_ids(["a", "b", "c", "d"]), table, np.zeros(4, np.int64), 4)


def boosted(catalogue, *rules, rows=(0, 1, 2, 3)):
    settings = tuple(BoostSettings(**rule) for rule in rules)
    boosts = Boosts(settings, catalogue, Eligibility(catalogue))
    rows = np.array(rows)
    return boosts.of(rows, NOW).of(SECONDS[rows]).tolist()


@pytest.mark.parametrize(
    ("rule", "meant"),
    [
        ({"channel_ids": ["x"]}, "ac"),
        ({"topics": ["news", "cats"]}, "ab"),
        ({"languages": ["en"]}, "c"),
        ({"max_age_days": 1}, "b"),  # c is not uploaded yet, the age of d is unknown
        ({"max_age_days": 8}, "ab"),
        ({"column": "is_premium", "values": ["1"]}, "ad"),
        ({"column": "tier", "values": ["2", "1"]}, "abc"),
        ({"channel_ids": ["x"], "topics": ["news"]}, "a"),
        ({"channel_ids": ["nobody's"]}, ""),
        ({}, "abcd"),
    ],
)
def test_rule_is_about_the_items_of_which_all_is_true(catalogue, rule, meant):
    expected = [
        value * 3 if name in meant else value for name, value in zip("abcd", SECONDS, strict=True)
    ]
    assert boosted(catalogue, {**rule, "factor": 3.0}) == expected


def test_rules_apply_one_after_the_other(catalogue):
    rules = [
        {"channel_ids": ["x"], "factor": 2.0, "added_seconds": 5.0},
        {"topics": ["news"], "factor": 0.5, "added_seconds": -1.0},
    ]
    assert boosted(catalogue, *rules) == [(10 * 2 + 5) * 0.5 - 1, 20 * 0.5 - 1, 65, 40]
    assert boosted(catalogue, *rules, rows=(2, 0)) == [65, 11.5]


def test_rule_about_a_column_that_the_items_lack_is_refused(catalogue):
    with pytest.raises(ConfigError, match="got 'primium'; they have item_id.*is_premium"):
        boosted(catalogue, {"column": "primium", "values": ["1"]})


@pytest.mark.parametrize("rule", [{"column": "tier"}, {"values": ["1"]}, {"factor": -1.0}])
def test_rule_without_a_meaning_is_refused(rule):
    with pytest.raises(ValueError, match="expected both|greater than or equal"):
        BoostSettings(**rule)
