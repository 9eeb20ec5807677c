"""The page of a search: every section, nothing from elsewhere, odd trials included."""

import matplotlib
from matplotlib.figure import Figure

from recsys.evaluation import tuning_plots
from recsys.evaluation.tuning_report import write_tuning_report


def trial(number, state, epochs, **changes):
    metric = max(epochs) if state == "complete" else None
    return {
        "trial": number,
        "state": state,
        "problem": None,
        "is_baseline": number == 0,
        "settings": {"rate": 10.0**-number, "tower": [number, 2]},
        "ndcg@10": metric,
        "epochs": epochs,
        "seconds": 2.5,
        **changes,
    }


TRIALS = [
    trial(0, "complete", [0.1, 0.3]),
    trial(1, "pruned", [0.05]),
    trial(2, "failed", [], problem="the loss is <nan>"),
    trial(3, "complete", [0.2, 0.4, 0.35]),
    trial(4, "complete", [0.2]),
]
FIGURES = {
    "name": "a run",
    "stage": "candidates",
    "metric": "ndcg@10",
    "larger_is_better": True,
    "trials": TRIALS,
    "best": 3,
    "overrides": ["rate=0.001"],
    "config": "out/tune/best.toml",
    "importances": {"rate": 0.75, "tower": 0.25},
    "log_scaled": ["rate"],
}


def page(tmp_path, **changes):
    write_tuning_report(tmp_path / "report.html", FIGURES | changes)
    return (tmp_path / "report.html").read_text()


def drawn(draw):
    with matplotlib.rc_context():
        axes = Figure().subplots()
        draw(axes)
    return axes


def test_report_shows_what_was_found(tmp_path):
    text = page(tmp_path)
    assert "recsys run --config out/tune/best.toml" in text
    assert "rate=0.001" in text
    assert "<b>0.4000</b><span>ndcg@10, best" in text
    assert "<b>0.3000</b><span>ndcg@10, as configured" in text
    assert "Trial 2: the loss is &lt;nan&gt;" in text
    assert text.count("<svg") == 3
    assert "<script" not in text


def test_report_without_importances_says_why(tmp_path):
    text = page(tmp_path, importances={})
    assert "Left out: too few trials ended with different figures." in text
    assert text.count("<svg") == 2


def test_history_steps_through_the_best_so_far():
    for larger_is_better, expected in ((True, [0.3, 0.4, 0.4]), (False, [0.1, 0.1, 0.1])):
        draw = tuning_plots.optimisation_history(
            TRIALS, "ndcg@10", larger_is_better=larger_is_better
        )
        (line,) = drawn(draw).lines
        assert line.get_xdata().tolist() == [0, 3, 4]
        assert line.get_ydata().tolist() == expected


def test_learning_curves_show_all_and_the_pruned_pale():
    lines = drawn(tuning_plots.learning_curves(TRIALS, "ndcg@10", 3)).lines
    by_values = {tuple(line.get_ydata()): line for line in lines}
    assert by_values.keys() == {tuple(each["epochs"]) for each in TRIALS}
    pruned, whole, best = by_values[0.05,], by_values[0.1, 0.3], by_values[0.2, 0.4, 0.35]
    assert pruned.get_alpha() < whole.get_alpha() < best.get_alpha()
    assert best.get_linewidth() > whole.get_linewidth()


def test_slices_scale_numbers_and_name_the_rest():
    def panel(setting, is_log):
        return drawn(
            tuning_plots.slice_of(TRIALS, setting, "ndcg@10", larger_is_better=True, is_log=is_log)
        )

    rates = panel("rate", True)
    assert rates.get_xscale() == "log"
    pruned, whole = (points.get_offsets().tolist() for points in rates.collections)
    assert pruned == [[0.1, 0.05]]
    assert whole == [[1.0, 0.3], [0.001, 0.4], [0.0001, 0.2]]
    labels = [label.get_text() for label in panel("tower", False).get_xticklabels()]
    assert labels == ["[0, 2]", "[1, 2]", "[2, 2]", "[3, 2]", "[4, 2]"]
