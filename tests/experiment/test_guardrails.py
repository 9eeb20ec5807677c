import pytest

from recsys.evaluation.intervals import Interval
from recsys.experiment.guardrails import check_guardrail, verdict
from recsys.experiment.paired import Change

NAN = float("nan")


def of(value, low, high):
    return Change(
        0.1, 0.1 * (1 + value), Interval(0.1 * value, 0.1 * low, 0.1 * high), lift(value, low, high)
    )


def lift(value, low, high):
    return Interval(value, low, high)


@pytest.mark.parametrize(
    ("metric", "change", "state"),
    [
        ("diversity", (-0.02, -0.05, 0.01), "kept"),
        ("diversity", (-0.05, -0.12, 0.02), "open"),
        ("diversity", (-0.2, -0.25, -0.15), "broken"),
        ("diversity", (0.5, 0.4, 0.6), "kept"),
        # The smaller the better: up is worse.
        ("latency_ms", (0.2, 0.15, 0.25), "broken"),
        ("latency_ms", (-0.2, -0.25, -0.15), "kept"),
        ("latency_ms", (0.1, 0.05, 0.15), "open"),
        ("latency_ms", (0.05, 0.02, 0.09), "kept"),
        # Without bounds the change is exact.
        ("coverage", (-0.09, NAN, NAN), "kept"),
        ("coverage", (-0.11, NAN, NAN), "broken"),
        ("coverage", (NAN, NAN, NAN), "open"),
    ],
)
def test_guardrail_holds_where_the_interval_clears_the_margin(metric, change, state):
    assert check_guardrail(metric, Interval(*change), 0.1).state == state


def rails(**states):
    changes = {"kept": 0.0, "open": NAN, "broken": -1.0}
    return [
        check_guardrail(metric, Interval(changes[state], NAN, NAN), 0.1)
        for metric, state in states.items()
    ]


def test_verdicts_say_which_is_better_by_how_much():
    better = of(0.031, 0.019, 0.042)
    assert verdict("ndcg@10", better, rails(coverage="kept")) == (
        "B is better: ndcg@10 +3.1 % (+1.9 to +4.2), no guardrail broken."
    )
    worse = of(-0.031, -0.042, -0.019)
    assert verdict("ndcg@10", worse, rails(coverage="broken")) == (
        "A is better: with B, ndcg@10 −3.1 % (−4.2 to −1.9)."
    )
    assert verdict("ndcg@10", of(0.01, -0.01, 0.03), rails(coverage="kept")) == (
        "No difference could be shown: ndcg@10 +1.0 % (−1.0 to +3.0)."
    )


def test_verdict_on_a_better_bundle_names_what_it_breaks():
    better = of(0.031, 0.019, 0.042)
    found = verdict("hr@5", better, rails(coverage="broken", diversity="open", gauc="broken"))
    assert found == "B is better on hr@5 +3.1 % (+1.9 to +4.2), but breaks coverage and gauc."
    found = verdict("hr@5", better, rails(coverage="kept", diversity="open"))
    assert found.endswith("but diversity may have got worse by too much.")


def test_verdict_on_a_metric_that_was_nothing_gives_the_difference():
    change = Change(0.0, 0.2, Interval(0.2, 0.1, 0.3), Interval(NAN, NAN, NAN))
    assert "ndcg@10 +0.2000 (+0.1000 to +0.3000)" in verdict("ndcg@10", change, [])


def test_bounds_that_touch_nothing_show_nothing():
    assert verdict("hr@5", of(0.0, 0.0, 0.0), []).startswith("No difference could be shown")
