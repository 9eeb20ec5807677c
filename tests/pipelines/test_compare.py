"""Two bundles over one log: known winners, known equals, and what cannot be compared."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from pipelines.cli import app
from pipelines.cli_compare import show
from pipelines.compare import compare, told_columns
from pipelines.compare_log import asked_impressions, asked_watches, open_log
from pipelines.compare_segments import find_segments
from pipelines.compare_sides import ItemSpace, predict_both
from pipelines.config import load_comparison_settings
from recsys.artefacts import hash_json
from recsys.bundle import Bundle
from recsys.errors import ArtefactError, ComparisonError, ConfigError
from recsys.evaluation.comparison_report import write_comparison_report
from recsys.recommender import Recommender
from recsys.settings import ComparisonSettings
from tests.pipelines.compared import renumbered, with_order

SETTINGS = ComparisonSettings(
    ks=(5, 20),
    max_requests=150,
    max_impressions=120,
    timed_requests=4,
    min_segment_users=10,
    bootstrap_rounds=200,
    guardrails={"coverage": 0.1, "diversity": 0.5},
)


@pytest.fixture(scope="module")
def bundle(tiny_run):
    return Bundle.load(tiny_run / "bundle")


@pytest.fixture(scope="module")
def log(tiny_run):
    return open_log(tiny_run)


def asked(log, *bundles, max_watches=150):
    rng = np.random.default_rng(0)
    return asked_watches(log, bundles, max_watches=max_watches, rng=rng)


@pytest.fixture(scope="module")
def orders(log, bundle):
    """Trained rows by how often the held-out watches ask for them: most first, and reversed."""
    watches, _, _ = asked(log, bundle, max_watches=10_000)
    trained = bundle.catalogue.num_trained
    counts = np.bincount(watches.column("item"), minlength=len(log.catalogue))[:trained]
    best = np.argsort(-counts, kind="stable")
    return best, best[::-1]


@pytest.fixture(scope="module")
def better(log, bundle, orders):
    """Figures of a bundle that knows what is asked for, as B."""
    best, worst = orders
    return compare([with_order(bundle, worst), with_order(bundle, best)], log, SETTINGS)


@pytest.fixture(scope="module")
def alike(log, bundle):
    return compare([bundle, bundle], log, SETTINGS)


def test_bundle_that_knows_the_answers_is_better(better):
    assert better["verdict"].startswith("B is better: ndcg@5 +")
    change = better["metrics"]["ndcg@5"]
    assert change["B"] > change["A"]
    assert 0 < change["difference"][1] < change["B"] - change["A"] < change["difference"][2]
    assert better["winners"]["B"] > better["winners"]["A"]


def test_sides_change_places_with_the_arguments(log, bundle, orders, better):
    best, worst = orders
    turned = compare([with_order(bundle, best), with_order(bundle, worst)], log, SETTINGS)
    assert turned["verdict"].startswith("A is better")
    there, here = turned["metrics"]["hr@20"], better["metrics"]["hr@20"]
    assert (there["A"], there["B"]) == (here["B"], here["A"])
    np.testing.assert_allclose(there["difference"][0], -here["difference"][0])


def test_metrics_are_those_of_the_lists_by_hand(log, bundle, orders, better):
    best, _ = orders
    watches, _, _ = asked_watches(
        log, [bundle], max_watches=150, rng=_rng_of_comparison(SETTINGS.seed)
    )
    recommended = [
        _without_watched(request, best, log)
        for request in watches.requests([], num_items=60, seen_removed=True)
    ]
    targets = watches.column("item").tolist()
    places = [
        row.index(target) if target in row else 999
        for row, target in zip(recommended, targets, strict=True)
    ]
    change = better["metrics"]
    assert change["hr@5"]["B"] == pytest.approx(np.mean([place < 5 for place in places]))
    assert change["hr@20"]["B"] == pytest.approx(np.mean([place < 20 for place in places]))
    assert change["candidate_recall"]["B"] == pytest.approx(np.mean([p < 60 for p in places]))
    gains = [1 / np.log2(place + 2) if place < 5 else 0 for place in places]
    assert change["ndcg@5"]["B"] == pytest.approx(np.mean(gains))


def _rng_of_comparison(seed):
    from recsys.core.random import stream

    return stream(seed, "comparison")


def _without_watched(request, order, log):
    known = request.user.as_of(request.now).events
    durations = dict(
        zip(
            log.catalogue.table["item_id"].to_pylist(),
            log.catalogue.table["duration_ms"].to_pylist(),
            strict=True,
        )
    )
    watched = {
        item.decode()
        for item, ms in zip(known.item_id, known.watch_ms, strict=True)
        if ms >= 30_000 or ms >= 0.3 * (durations[item.decode()] or np.inf)
    }
    ids = log.catalogue.item_ids(order)
    return [row for row, item in zip(order.tolist(), ids, strict=True) if item not in watched][:60]


def test_bundle_against_itself_shows_no_difference(alike):
    assert alike["verdict"].startswith("No difference could be shown")
    assert all(change["difference"] == [0, 0, 0] for change in alike["metrics"].values())
    assert all(change["difference"] == [0, 0, 0] for change in alike["ranking"].values())
    assert {name: bounds[0] for name, bounds in alike["overlap"].items()} == {
        "jaccard@5": 1, "jaccard@20": 1, "rank_biased_overlap@5": pytest.approx(1)
    }  # fmt: skip
    assert alike["winners"] == {"A": 0, "B": 0, "equal": alike["users"]}
    assert alike["examples"] == {"A": [], "B": []}
    assert all(each["adjusted_p_value"] == 1 for each in alike["segments"])


def test_rankers_are_compared_where_both_have_one(alike, better):
    assert set(alike["ranking"]) == {"mae_seconds", "xauc", "gauc"}
    assert better["ranking"] == {}
    assert better["ranking_left_out"] == "no ranking net in A and B"


def test_log_without_impressions_has_no_predictions(bundle):
    sides = [Recommender(bundle)] * 2
    found = predict_both(sides, [], [], ["expected_seconds"])
    assert [side["expected_seconds"].shape for side in found] == [(0,), (0,)]


def test_bundle_of_another_vocabulary_is_asked_by_external_ids(log, bundle, orders):
    fixed = with_order(bundle, orders[0])
    trained = bundle.catalogue.num_trained
    order = np.arange(len(bundle.catalogue))
    order[:trained] = np.random.default_rng(0).permutation(trained)
    found = compare([fixed, renumbered(fixed, order)], log, SETTINGS)
    assert found["metrics"]["ndcg@20"]["difference"] == [0, 0, 0]
    assert found["overlap"]["rank_biased_overlap@5"][0] == pytest.approx(1)
    assert found["exposure"]["popularity_percentile"]["difference"] == [0, 0, 0]


def test_items_that_only_a_bundle_knows_are_told_apart(log, bundle):
    catalogue = bundle.catalogue
    table = catalogue.table.slice(0, 2)
    ids = table["item_id"].to_pylist()
    foreign = table.set_column(table.column_names.index("item_id"), "item_id", [["x", ids[1]]])
    other = replace(catalogue, table=foreign)
    space = ItemSpace.of(log.catalogue, [catalogue, other, other])
    assert len(space) == len(log.catalogue) + 1
    assert space.vocabulary.rows(["x", ids[1]]).tolist() == [len(log.catalogue), 1]
    assert space.watch_counts[-1] == 0


def test_coverage_that_is_lost_breaks_its_guardrail(log, bundle, orders):
    best, _ = orders
    # A bundle that personalises, against one that shows everybody the same few.
    found = compare([bundle, with_order(bundle, best)], log, SETTINGS)
    (coverage,) = [each for each in found["guardrails"] if each["metric"] == "coverage"]
    assert coverage["state"] == "broken"
    change = found["exposure"]["coverage"]
    assert coverage["lift"][0] == pytest.approx(change["B"] / change["A"] - 1)
    assert found["verdict"].endswith("breaks coverage.")


def test_examples_are_requests_that_the_winner_wins(better, log):
    titles = set(log.catalogue.table["title"].to_pylist())
    users = [example["user_id"] for example in better["examples"]["B"]]
    assert 0 < len(users) <= SETTINGS.num_examples
    assert len(set(users)) == len(users)
    for winner, loser in ("AB", "BA"):
        for example in better["examples"][winner]:
            place, other = example[winner]["place"], example[loser]["place"]
            assert place <= 5
            assert other is None or other > place
            assert example[winner]["items"][place - 1] == example["target"]
            assert {example["target"], *example["A"]["items"]} <= titles


def test_segments_divide_the_requests(log, bundle):
    watches, known, _ = asked(log, bundle)
    space = ItemSpace.of(log.catalogue, [bundle.catalogue])
    segments, num_small = find_segments(watches, known, [bundle, bundle], space, min_users=1)
    assert num_small == 0
    by_dimension = {}
    for name, own in segments.items():
        by_dimension.setdefault(name.split(": ")[0], []).append(own)
    assert {"watches before", "country", "device", "surface"} <= set(by_dimension)
    for own in by_dimension.values():
        assert (np.sum(own, axis=0) == 1).all()
    some = segments["watches before: 5 to 19"]
    assert known[some].min() >= 5
    assert known[some].max() <= 19
    countries = np.array(watches.values("country"))
    name = next(name for name in segments if name.startswith("country"))
    assert set(countries[segments[name]]) == {name.split(": ")[1]}
    large, left_out = find_segments(watches, known, [bundle, bundle], space, min_users=20)
    assert len(large) + left_out == len(segments)
    assert min(len(np.unique(watches.users[own])) for own in large.values()) >= 20


def test_only_what_neither_has_learned_from_is_asked(log, bundle):
    every, _, none_left_out = asked(log, bundle, max_watches=10_000)
    middle = int(np.median(every.column("moment")))
    later = replace(bundle, data_until=middle)
    some, known, left_out = asked(log, bundle, later, max_watches=10_000)
    assert none_left_out == 0
    assert left_out + len(some) == len(every)
    assert asked(log, later, bundle, max_watches=10_000)[2] == left_out
    assert some.column("moment").min() >= middle
    assert len(known) == len(some)
    rng = np.random.default_rng(0)
    impressions = asked_impressions(log, [bundle, later], max_impressions=10**6, rng=rng)
    assert impressions.column("moment").min() >= middle
    assert impressions.column("watch_ms").min() >= 0


def test_asked_events_are_the_watches_of_the_log(log, bundle):
    watches, known, _ = asked(log, bundle)
    assert watches.column("is_watch").all()
    requests = list(watches.requests(told_columns([bundle]), num_items=7, seen_removed=True))
    ids = log.catalogue.item_ids(watches.column("item"))
    countries = watches.values("country")
    for row, (request, item) in enumerate(zip(requests, ids, strict=True)):
        assert request.user.user_id == watches.user_id(row)
        events = request.user.events
        assert ((events.moment == request.now) & (events.item_id == item.encode())).any()
        told = request.context.get("country", request.user.attributes.get("country"))
        assert told == countries[row]
        assert "surface" in request.context
    assert len(known) == len(requests) == 150


def test_impressions_are_of_whole_users(log, bundle):
    rng = np.random.default_rng(0)
    every = asked_impressions(log, [bundle], max_impressions=10**6, rng=rng)
    some = asked_impressions(log, [bundle], max_impressions=100, rng=rng)
    counts = dict(zip(*np.unique(every.users, return_counts=True), strict=True))
    for user, count in zip(*np.unique(some.users, return_counts=True), strict=True):
        assert counts[user] == count
    assert 100 <= len(some) < len(every)


def test_log_that_ends_before_a_bundle_is_refused(log, bundle):
    later = replace(bundle, data_until=log.manifest["statistics"]["last_moment"] + 1)
    with pytest.raises(ComparisonError, match=r"2026-01-0.*the log ends 2026-01-0.*goes on after"):
        compare([bundle, later], log, SETTINGS)


def test_watches_held_out_by_user_are_asked_only_of_the_same_split(log, bundle):
    split = bundle.settings.split.model_copy(update={"kind": "leave_one_out"})
    settings = bundle.settings.model_copy(update={"split": split})
    after = log.manifest["statistics"]["last_moment"] + 1
    by_user = replace(bundle, settings=settings, data_until=after)
    with pytest.raises(ComparisonError):
        asked(log, by_user)
    hashed = {"split_hash": hash_json(split.model_dump(mode="json"))}
    same = replace(log, manifest=log.manifest | hashed)
    assert len(asked(same, by_user)[0]) == 150


def test_directory_that_is_no_log_is_refused_by_name(tmp_path):
    with pytest.raises(ArtefactError, match="prepared directory or that of a run"):
        open_log(tmp_path)


def test_settings_that_mean_nothing_are_refused():
    for override, name in (
        ("ks=[0]", "1 or more"),
        ("guardrails={ coverage = -0.1 }", "margins of 0 or more"),
        ("guardrails={ covrage = 0.1 }", "covrage"),
        ("max_request=5", "did you mean 'max_requests'"),
    ):
        with pytest.raises(ConfigError, match=re.escape(name)):
            load_comparison_settings(None, [override])


def test_report_shows_the_figures(better, tmp_path):
    write_comparison_report(tmp_path / "compare.html", better)
    text = (tmp_path / "compare.html").read_text()
    assert better["verdict"] in text
    for change in (*better["metrics"].values(), better["exposure"]["coverage"]):
        assert f">{change['A']:.4f}" in text
        assert f"{change['difference'][0]:+.4f}".replace("-", "−") in text
    for segment in better["segments"]:
        assert segment["name"].replace("'", "&#39;") in text
    assert "no ranking net in A and B" in text
    assert not re.search(r"(src|href)\s*=\s*[\"']https?:", text)
    assert text.count("<svg") == 2


def test_terminal_shows_the_figures_in_80_columns(alike, better, capsys):
    for figures in (alike, better):
        show(figures, Console(width=80, highlight=False))
        printed = capsys.readouterr().out
        assert figures["verdict"] in " ".join(printed.split())
        assert max(len(line.rstrip()) for line in printed.splitlines()) <= 80
        assert f"{figures['metrics']['ndcg@5']['B']:.4f}" in printed
        assert "coverage" in printed


def test_command_writes_what_it_prints(tiny_run, tmp_path):
    options = ["--log", tiny_run, "--out", tmp_path / "new", "--json"]
    for setting in ("max_requests=20", "max_impressions=20", "timed_requests=2"):
        options += ["--set", setting]
    bundle = tiny_run / "bundle"
    arguments = [str(each) for each in ("compare", bundle, bundle, *options)]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    printed = json.loads(done.stdout.splitlines()[-1])
    assert printed == json.loads((tmp_path / "new" / "compare.json").read_text())
    assert printed["requests"] == 20
    assert printed["settings"]["timed_requests"] == 2
    assert (tmp_path / "new" / "compare.html").read_text().startswith("<!")
