import numpy as np
import pytest

from benchmarks.ab_audit import closed_forms, experiments, kuairand, open_bandit, world


def test_estimators_equal_their_closed_forms():
    assert 0 < closed_forms.max_error(seed=1) < 1e-10


def test_closed_forms_notice_a_wrong_weight(monkeypatch):
    real = closed_forms.importance_weights
    monkeypatch.setattr(closed_forms, "importance_weights", lambda t, m: real(t, m) * 1.001)
    assert closed_forms.max_error(seed=1) > 1e-4


def test_experiments_are_about_as_sound_as_they_say():
    found = experiments.audit(400, seed=0)
    assert found["aa_false_positive"] == pytest.approx(0.05, abs=0.04)
    assert found["coverage"] == pytest.approx(0.95, abs=0.04)
    assert found["peeking_false_positive"] < 0.05 < found["peeking_false_positive_fixed_horizon"]
    assert found["cuped_cut_synthetic_foreseen"] == pytest.approx(0.36, abs=0.02)


def test_world_estimates_its_true_value(monkeypatch):
    monkeypatch.setattr(world, "NUM_USERS", 300)
    monkeypatch.setattr(world, "NUM_ITEMS", 60)
    monkeypatch.setattr(world, "DRAWN_USERS", 1000)
    monkeypatch.setattr(world, "ROUNDS", 100)
    found = world.audit(20, seed=0)
    assert found["dr_relative_rmse"] < 0.05
    assert abs(found["world_relative_bias"]["doubly_robust"]) < 0.02
    assert found["cluster_coverage"] >= 0.75


def test_real_logs_give_every_figure(real_data):
    found = kuairand.audit(real_data, 100, seed=0)
    assert found["kuairand_users_before"] < found["kuairand_users"]
    assert 0 < found["cuped_cut_kuairand"] < 1
    for direction in open_bandit.audit(real_data, seed=0)["open_bandit"].values():
        assert set(direction["estimates"]) >= {"ips", "snips", "doubly_robust"}
        values = [estimate["value"] for estimate in direction["estimates"].values()]
        assert np.isfinite(values).all()
