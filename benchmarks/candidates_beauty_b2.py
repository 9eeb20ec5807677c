"""Candidate stage on Amazon Beauty, 5-core: 22,363 users, 12,101 items, protocol B2.

Leave-one-out: the last watch of each user is the test, the one before it the validation (the net
learns from neither). Full ranking of all items, no sampled metrics.

    python -m benchmarks.candidates_beauty_b2 [--data DIR] [--json]
"""

from benchmarks.candidates import PEERS, Protocol, main

PROTOCOL = Protocol(
    name="candidates_beauty_b2",
    description="Amazon Beauty B2 (5-core): leave-one-out, full ranking over 12,101 items",
    log="amazon-beauty/b2_sequences.parquet",
    configs={"bag": "beauty.toml"},
    rows=(22_363, 12_101, 198_502),
    peers=PEERS,
    published={
        "SASRec+, full cross-entropy, best of 108 by validation": {
            "hr@10": 0.0974,
            "ndcg@10": 0.0588,
            "source": "Time to Split, RecSys 2025 (arXiv 2507.16289), result files",
        },
        "SASRec-SCE": {"hr@10": 0.0935, "ndcg@10": 0.0544, "source": "arXiv 2409.18721"},
        "eSASRec": {"hr@10": 0.0928, "ndcg@10": 0.0523, "source": "arXiv 2508.06450"},
    },
)

if __name__ == "__main__":
    main(PROTOCOL, __doc__)
