"""Trials of the server: stopped, asked for too much, broken stage by stage, asked for long."""

import itertools
import json
import random
import threading
import time
from collections import Counter
from typing import Any

import numpy as np

from benchmarks.chaos.served import served
from benchmarks.chaos.world import MIXED, World
from benchmarks.load import DEGRADED, Calls

IN_FLIGHT = 8
DEADLINE_SECONDS = 0.5
STAGES = ("tower", "index", "ranker", "store")
FAULTS = ("raise", "hang", "slow", "nan")
WITHOUT_NUMBERS = "store"
SOAK_STEP, SOAK_IN_FLIGHT = 10_000, 16
ROUND_SECONDS = 4.0


def terminations(world: World, number: int, seed: int = 0) -> dict[str, Any]:
    """Stop servers by SIGTERM under load; every call that they had has to be answered."""
    rng = random.Random(seed)
    lost, stop_seconds, num_requests = Counter[str](), [], 0
    for _ in range(number):
        with served(world) as under_trial:
            loads: list[Calls] = []
            caller = under_trial.caller
            load = threading.Thread(
                target=lambda: loads.append(caller.closed(IN_FLIGHT, until_problem=True))  # noqa: B023
            )
            load.start()
            time.sleep(rng.uniform(0.05, 0.3))
            asked = time.perf_counter()
            under_trial.server.stop()
            stop_seconds.append(time.perf_counter() - asked)
            load.join()
        calls = loads[0]
        num_requests += int((calls.due < asked).sum())
        lost.update(
            problem
            for problem, due in zip(calls.problems, calls.due, strict=True)
            if problem and due < asked
        )
    return {
        "terminations": number,
        "sigterm_lost": lost.total(),
        "lost_as": dict(lost),
        "requests": num_requests,
        "longest_stop_seconds": max(stop_seconds),
    }


def overload(world: World, seconds: float) -> dict[str, Any]:
    """Offer three times what the server can do, each call with a deadline.

    The best rate is measured anew before each offer: a machine's speed changes within minutes.
    """
    rounds = max(round(seconds / ROUND_SECONDS), 1)
    with served(world, timeout_seconds=DEADLINE_SECONDS) as under_trial:
        caller = under_trial.caller
        caller.closed(IN_FLIGHT, seconds=2)
        best = max((4, 8, 16, 32), key=lambda n: caller.closed(n, seconds=2).per_second)
        peaks, offers = [], []
        for _ in range(rounds):
            peaks.append(caller.closed(best, seconds=ROUND_SECONDS / 2).per_second)
            offers.append(caller.open(3 * peaks[-1], ROUND_SECONDS))
    answered_per_second = [calls.per_second for calls in offers]
    problems = np.array([problem for calls in offers for problem in calls.problems])
    milliseconds = np.concatenate([calls.milliseconds for calls in offers])
    refused, answered = (milliseconds[problems == each] for each in ("RESOURCE_EXHAUSTED", ""))
    return {
        "rounds": rounds,
        "in_flight_at_peak": best,
        "peak_per_second": float(np.mean(peaks)),
        "overload_goodput_share": float(np.sum(answered_per_second) / np.sum(peaks)),
        "share_by_round": [a / b for a, b in zip(answered_per_second, peaks, strict=True)],
        "errors": dict(sum((Counter(calls.errors) for calls in offers), Counter[str]())),
        "refusal_ms": {
            "median": float(np.median(refused)) if len(refused) else None,
            "p99": float(np.percentile(refused, 99)) if len(refused) else None,
        },
        "p99_ms": float(np.percentile(answered, 99)) if len(answered) else None,
    }


def stage_faults(world: World, num_requests: int) -> dict[str, Any]:
    """Break every stage in every way, alone and two at once."""
    broken = combinations()
    each = -(-num_requests // len(broken))
    problems, asked, slowest = dict[str, dict[str, int]](), 0, 0.0
    with served(world, timeout_seconds=DEADLINE_SECONDS) as under_trial:
        for faults in broken:
            under_trial.break_stages(faults)
            calls = under_trial.caller.closed(IN_FLIGHT, number=each)
            under_trial.break_stages({})
            under_trial.caller.closed(1, number=5)
            asked += len(calls)
            slowest = max(slowest, float(calls.milliseconds.max()))
            wrong = {name: count for name, count in calls.errors.items() if name != DEGRADED}
            if wrong:
                problems[json.dumps(faults)] = wrong
    return {
        "requests": asked,
        "invalid_answers": sum(sum(wrong.values()) for wrong in problems.values()),
        "unflagged": sum(wrong.get(MIXED, 0) for wrong in problems.values()),
        "combinations": len(broken),
        "problems": problems,
        "slowest_ms": slowest,
    }


def combinations() -> list[dict[str, str]]:
    """Return every stage with every fault, and all pairs of them at two stages."""
    alone = [
        {stage: fault}
        for stage in STAGES
        for fault in FAULTS
        if not (stage == WITHOUT_NUMBERS and fault == "nan")
    ]
    pairs = itertools.combinations(alone, 2)
    return alone + [one | two for one, two in pairs if one.keys() != two.keys()]


def soak(world: World, num_requests: int) -> dict[str, Any]:
    """Ask for long, and look at the memory that is the server's own."""
    with served(world) as under_trial:
        caller, server = under_trial.caller, under_trial.server
        caller.closed(SOAK_IN_FLIGHT, number=min(2 * SOAK_STEP, num_requests))
        private_mb = [server.memory_mb()["private"]]
        errors = Counter[str]()
        for start in range(0, num_requests, SOAK_STEP):
            calls = caller.closed(SOAK_IN_FLIGHT, number=min(SOAK_STEP, num_requests - start))
            errors.update(calls.errors)
            private_mb.append(server.memory_mb()["private"])
    return {
        "soak_requests": num_requests,
        "memory_growth_mb": private_mb[-1] - private_mb[0],
        "private_mb": private_mb,
        "errors": dict(errors),
    }
