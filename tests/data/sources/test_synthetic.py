import numpy as np
import pyarrow as pa
import pytest

from recsys.data.schema import EVENTS, ITEMS, SEARCHES, USERS
from recsys.data.sources import open_log, synthetic
from recsys.data.sources.world import LoggingPolicy, make_world
from recsys.data.validation import (
    reject_duplicates,
    validate_events,
    validate_items,
    validate_searches,
    validate_users,
)
from recsys.settings import DataSettings

SETTINGS = DataSettings(source="synthetic", options={"users": 300, "items": 200, "days": 7})


@pytest.fixture(scope="module")
def log():
    return open_log(SETTINGS, 3)


@pytest.fixture(scope="module")
def events(log):
    return pa.concat_tables(log.events())


@pytest.fixture(scope="module")
def shown(log, events):
    """Impressions as arrays: users, items, positions, times and the table."""
    table = events.filter(events["is_impression"])
    users, items = (
        np.array([int(value[1:]) for value in table[name].to_pylist()])
        for name in ("user_id", "item_id")
    )
    times = table["event_time"].cast(pa.int64()).to_numpy()
    return users, items, table["position"].to_numpy().astype(int), times, table


def test_every_row_obeys_the_contract(log, events):
    validated = validate_events(events, SETTINGS)
    assert validated.reasons == {}
    assert reject_duplicates(validated.accepted).reasons == {}
    assert validate_searches(pa.concat_tables(log.searches()), SETTINGS).reasons == {}
    assert validate_items(log.items).reasons == {}
    assert validate_users(log.users).reasons == {}


def test_tables_have_the_types_of_the_contract(log, events):
    tables = ((events, EVENTS), (log.items, ITEMS), (log.users, USERS))
    for table, contract in (*tables, (next(log.searches()), SEARCHES)):
        shared = [name for name in table.column_names if name in contract.names]
        assert [table.schema.field(name).type for name in shared] == [
            contract.field(name).type for name in shared
        ]


def test_every_pass_gives_the_same_rows(log, events):
    assert pa.concat_tables(log.events()).equals(events)
    assert pa.concat_tables(open_log(SETTINGS, 3).events()).equals(events)
    assert not pa.concat_tables(open_log(SETTINGS, 4).events()).equals(events)


def test_searches_do_not_depend_on_reading_events_first(log):
    fresh = pa.concat_tables(open_log(SETTINGS, 3).searches())
    assert fresh.equals(pa.concat_tables(log.searches()))


def test_blocks_bound_the_batches(monkeypatch):
    monkeypatch.setattr(synthetic, "_BLOCK_EVENTS", 1_200)
    batches = list(open_log(SETTINGS, 3).events())
    assert len(batches) == 15
    owners = [set(batch["user_id"].to_pylist()) for batch in batches]
    assert sum(len(owner) for owner in owners) == len(set.union(*owners))


def test_number_of_events_is_about_what_was_asked():
    options = {"users": 400, "items": 100, "events": 40_000}
    asked = DataSettings(source="synthetic", options=options)
    found = sum(table.num_rows for table in open_log(asked, 0).events())
    assert 34_000 < found < 47_000


def test_nothing_is_shown_before_its_upload(log, shown):
    _, items, _, times, _ = shown
    assert (log.truth["item_upload_us"][items] <= times).all()


def test_page_holds_each_item_once(shown):
    table = shown[-1]
    pairs = list(zip(table["request_id"].to_pylist(), table["item_id"].to_pylist(), strict=True))
    assert len(set(pairs)) == len(pairs)


def test_mean_watch_time_is_the_expected_one(log, shown):
    *query, table = shown
    expected = log.truth["world"].expected_watch_ms(*query)
    watched = table["watch_ms"].to_numpy()
    error = (watched - expected).mean() / (watched.std() / np.sqrt(len(watched)))
    assert abs(error) < 4
    quarter = expected > np.quantile(expected, 0.75)
    assert watched[quarter].mean() == pytest.approx(expected[quarter].mean(), rel=0.1)


def test_click_rate_is_the_stated_probability(log, shown):
    users, items, positions, times, table = shown
    probability = log.truth["world"].click_probability(users, items, positions, times)
    clicked = table["clicked"].to_numpy(zero_copy_only=False)
    for position in (0, 7):
        at = positions == position
        assert clicked[at].mean() == pytest.approx(probability[at].mean(), abs=0.04)
    assert clicked[positions == 0].mean() > clicked[positions == 7].mean()


def test_interests_matter_more_than_popularity(log, shown):
    """What the user likes must tell more of the watch time than which item it is."""
    users, items, _, times, table = shown
    watched = table["watch_ms"].to_numpy() > 0
    of_item = np.bincount(items, watched, 200) / np.maximum(np.bincount(items, minlength=200), 1)
    affinity = log.truth["world"].affinity(users, items, times)
    by_user, by_item = (np.corrcoef(signal, watched)[0, 1] for signal in (affinity, of_item[items]))
    assert by_user > by_item + 0.1


def test_interests_drift_between_their_ends(log):
    world = log.truth["world"]
    users = np.arange(5)
    first = world.interests(users, np.full(5, world.start_us))
    last = world.interests(users, np.full(5, world.end_us))
    np.testing.assert_allclose(first, log.truth["first_interests"][:5], rtol=1e-5)
    np.testing.assert_allclose(last, log.truth["last_interests"][:5], rtol=1e-5)
    assert np.abs(first - last).max() > 0.1


def small_policy():
    world = make_world(num_users=3, num_items=60, num_days=3, num_countries=2, seed=1)
    return world, LoggingPolicy(world)


def test_policy_probabilities_sum_to_one_over_the_available_items():
    world, policy = small_policy()
    for time in (world.start_us, world.end_us):
        topics = world.topic_probabilities(np.array([1]), np.array([time]))
        found = policy.probabilities(topics.repeat(60, 0), np.arange(60), np.full(60, time))
        assert found.sum() == pytest.approx(1, abs=1e-5)
        np.testing.assert_array_equal(found == 0, world.item_upload_us > time)


def test_policy_probability_is_the_formula():
    """The slow twin: every weight recomputed at the moment itself."""
    world, policy = small_policy()
    time, item = world.end_us - 10**10, 7
    available = world.item_upload_us <= time
    age_days = (time - world.item_upload_us) / 86_400_000_000
    weight = np.where(available, np.exp(world.item_quality - age_days / 7), 0)
    same_topic = world.item_topic == world.item_topic[item]
    topics = world.topic_probabilities(np.array([2]), np.array([time]))
    relevant = topics[0, world.item_topic[item]] * weight[item] / weight[same_topic].sum()
    expected = 0.2 / available.sum() + 0.8 * relevant
    found = policy.probabilities(topics, np.array([item]), np.array([time]))
    assert found[0] == pytest.approx(expected, rel=1e-6)


def test_draws_have_the_stated_probabilities():
    world, policy = small_policy()
    num_pages = 40_000
    times = np.full(num_pages, world.start_us + 10**11)
    topics = world.topic_probabilities(np.zeros(num_pages, int), times)
    items, propensity = policy.draw_pages(topics, times, rng=np.random.default_rng(0))
    expected = policy.probabilities(topics[:60], np.arange(60), times[:60])
    share = np.bincount(items[:, 0], minlength=60) / num_pages
    np.testing.assert_allclose(share, expected, atol=0.01)
    np.testing.assert_allclose(propensity[:, 0], expected[items[:, 0]], rtol=1e-6)
    # Given the first, the second is drawn from the rest.
    first = int(np.argmax(share))
    rows = items[:, 0] == first
    second = np.bincount(items[rows, 1], minlength=60) / rows.sum()
    rest = np.where(np.arange(60) == first, 0, expected / (1 - expected[first]))
    np.testing.assert_allclose(second, rest, atol=0.02)
    np.testing.assert_allclose(propensity[rows, 1], rest[items[rows, 1]], rtol=1e-6)


def test_mean_of_inverse_propensity_is_the_number_of_available_items(log, shown):
    """E[1 / p] over draws of p is the number of items that can be drawn."""
    _, _, positions, times, table = shown
    first = positions == 0
    available = (log.truth["item_upload_us"][None] <= times[first][:, None]).sum(axis=1)
    inverse = 1 / table["propensity"].to_numpy()[first].astype(float)
    assert inverse.mean() == pytest.approx(available.mean(), rel=0.1)


def test_search_leads_to_a_watch_of_its_topic(log, events):
    searches = pa.concat_tables(log.searches())
    found = events.filter(pa.compute.equal(events["surface"], "search"))
    assert found.num_rows == searches.num_rows > 20
    assert not any(found["is_impression"].to_pylist())
    topic = dict(
        zip(log.items["item_id"].to_pylist(), log.items["topics"].to_pylist(), strict=True)
    )
    asked = [query.split()[0] for query in searches["query"].to_pylist()]
    assert [topic[item][0] for item in found["item_id"].to_pylist()] == asked
    assert pa.compute.all(pa.compute.less(searches["event_time"], found["event_time"])).as_py()
