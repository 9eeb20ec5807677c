"""Candidate stage on Amazon Beauty, BERT4Rec's file: 40,226 users, 54,542 items, protocol B1.

Leave-one-out: the last watch of each user is the test, the one before it the validation (the net
learns from neither). Full ranking of all items, no sampled metrics. EASE is of the 8,000 most
watched items: the matrix of all would take 24 GB.

    python -m benchmarks.candidates_beauty_b1 [--data DIR] [--json]
"""

from benchmarks.candidates import PEERS, Protocol, main
from benchmarks.peers.head_ease import HeadEase

PROTOCOL = Protocol(
    name="candidates_beauty_b1",
    description="Amazon Beauty B1 (BERT4Rec's file): leave-one-out, full ranking, 54,542 items",
    log="amazon-beauty/b1_sequences.parquet",
    configs={"bag": "beauty_b1.toml"},
    rows=(40_226, 54_542, 353_962),
    peers={**PEERS, "ease": HeadEase.fit},
    published={
        "RecTools SASRec, softmax": {
            "hr@10": 0.0595,
            "ndcg@10": 0.0359,
            "source": "blondered/bert4rec_repro, results of 2025",
        },
        "SASRec+, full cross-entropy": {
            "hr@10": 0.0533,
            "ndcg@10": 0.0327,
            "source": "Klenitskiy & Vasilev 2023, Turning Dross Into Gold Loss (arXiv 2309.07602)",
        },
    },
)

if __name__ == "__main__":
    main(PROTOCOL, __doc__)
