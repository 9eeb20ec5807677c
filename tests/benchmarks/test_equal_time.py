import itertools
import math

import keras
import numpy as np
import pytest

from benchmarks import equal_time
from benchmarks.equal_time import Clock, Curve, compile_first, finite_only, train_for
from recsys.core.backends import to_numpy


@pytest.fixture
def processor(monkeypatch):
    """A processor whose seconds go by only where `spend` says so."""

    class Processor:
        seconds = 0.0

        def spend(self, seconds):
            self.seconds += seconds

        def process_time(self):
            return self.seconds

    processor = Processor()
    monkeypatch.setattr(equal_time, "time", processor)
    return processor


def test_clock_stands_still_between_its_blocks(processor):
    clock = Clock()
    for _ in range(2):
        processor.spend(100)
        with clock.running():
            processor.spend(3)
    assert clock.seconds == 6


def steps_of(processor, seconds, number=math.inf):
    for step in itertools.takewhile(lambda step: step < number, itertools.count()):
        processor.spend(seconds)
        yield float(step)


def measured(processor):
    processor.spend(50)  # Not counted.
    return -processor.seconds


def test_training_ends_after_its_seconds_and_is_measured_at_equal_distances(processor):
    curve = train_for(
        steps_of(processor, 1.5), lambda: measured(processor), seconds=12, num_looks=4
    )
    assert curve.seconds == [3, 6, 9, 12]
    assert curve.num_steps == [2, 4, 6, 8]
    assert curve.values == [-53, -106, -159, -212]


def test_lost_training_ends_early_and_keeps_what_was_measured(processor):
    losses = finite_only(iter([1.0, 2.0, math.nan, 1.0]))
    assert list(losses) == [1.0, 2.0]
    steps = steps_of(processor, 1, number=5)
    curve = train_for(steps, lambda: 0.5, seconds=100, num_looks=25)
    assert curve.seconds == [4]


@pytest.mark.parametrize(
    ("is_up", "expected", "worst"), [(True, 3, -math.inf), (False, 1, math.inf)]
)
def test_best_of_a_curve(is_up, expected, worst):
    assert Curve(values=[2, 3, 1]).best(larger_is_better=is_up) == expected
    assert Curve().best(larger_is_better=is_up) == worst


def test_steps_taken_to_compile_are_undone():
    weight = keras.Variable(np.ones(2, np.float32))
    optimizer = keras.optimizers.Adam(0.1)
    optimizer.build([weight])

    def steps():
        for number in range(5):
            optimizer.apply([np.ones(2, np.float32)], [weight])
            yield float(number)

    remaining = compile_first(steps, [weight], optimizer, 3)
    assert to_numpy(weight.value).tolist() == [1, 1]
    assert int(to_numpy(optimizer.iterations.value)) == 0
    assert list(remaining) == [0, 1, 2, 3, 4]
    assert int(to_numpy(optimizer.iterations.value)) == 5
