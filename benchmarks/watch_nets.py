"""Auto-encoders of what users watched as recommenders of their own, beside the candidate nets.

Trained and stopped as the candidate nets are (the epoch of the best NDCG@10 on the validation day),
ranked by the same protocol: what the test asks for, among all items that the user has not seen.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.candidates import each_metric, parts_of, test_labels
from pipelines.train_candidates import training_labels
from recsys.candidates.initial_items import WatchNet, fit_watch_net, new_watch_net
from recsys.candidates.sequences import Labels, join_labels, join_sequences
from recsys.candidates.vectors import ValidationRanking, ranking_metrics
from recsys.candidates.watch_vectors import known_watches
from recsys.data.examples import VALIDATION
from recsys.data.prepared import Prepared
from recsys.settings import RecsysSettings


def measure_watch_net(
    log: Prepared, settings: RecsysSettings, seed: int, directory: Path
) -> dict[str, Any]:
    """Train the auto-encoder that `candidates.initial_items` names; return its figures."""
    candidates, num_trained = settings.candidates, log.catalogue.num_trained
    held_out = join_labels(
        parts_of(log), candidates, split=VALIDATION, num_trained=num_trained, targets_only=True
    )
    net = new_watch_net(num_trained, candidates, seed=seed)
    started = time.process_time()
    fit_watch_net(
        net,
        training_labels(log, candidates),
        candidates,
        lambda: ranking_metrics(_ranks(net, log, settings, held_out)),
        directory=directory,
        seed=seed,
    )
    seconds = time.process_time() - started
    ranks = _ranks(net, log, settings, test_labels(log, settings))
    found = {name: float(values.mean()) for name, values in each_metric(ranks).items()}
    return {"ndcg@10": found["ndcg@10"], "hr@50": found["hr@50"], "processor_seconds": seconds}


def _ranks(net: WatchNet, log: Prepared, settings: RecsysSettings, labels: Labels) -> np.ndarray:
    """Return the rank of each held-out watch, as of what was known before it: float64 [L]."""
    sequences = join_sequences(parts_of(log))
    watched = known_watches(sequences.histories, labels, net.num_items)
    ranking = ValidationRanking(sequences, labels, settings.candidates)
    return ranking.ranks(net.user_vectors(watched), net.item_vectors())
