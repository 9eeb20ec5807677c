"""Candidate stage on MovieLens-1M: how often the next watch is among the first k of all items.

Protocol P1: leave-one-out of 6,040 users. The last watch of each is the test, the one before it
the validation (early stopping only; the net learns from neither), and the history known at the
test holds the validation watch. Full ranking of all 3,416 items, no sampled metrics.

    python -m benchmarks.candidates_ml1m [--data DIR] [--encoder attention|bag|bag_2016] [--json]

`bag_2016` is the one bag of 50 watches of the 2016 paper. The log has order, but no times.
"""

from benchmarks.candidates import PEERS, Protocol, main

PROTOCOL = Protocol(
    name="candidates_ml1m",
    description="ML-1M P1: leave-one-out, full ranking over 3,416 items, seen items filtered",
    log="ml-1m",
    configs={
        "attention": "ml1m_attention.toml",
        "bag": "ml1m.toml",
        "bag_2016": "ml1m_2016.toml",
    },
    rows=(6040, 3416, 999_611),
    peers=PEERS,
    published={
        "SASRec+, 3,000 negatives": {
            "hr@10": 0.3159,
            "ndcg@10": 0.1857,
            "source": "Klenitskiy & Vasilev 2023, Turning Dross Into Gold Loss (arXiv 2309.07602)",
        },
        "SASRec+, full cross-entropy": {
            "hr@10": 0.3152,
            "ndcg@10": 0.1821,
            "source": "the same",
        },
        "gSASRec, 256 negatives": {
            "hr@10": 0.3003,
            "ndcg@10": 0.1726,
            "source": "Petrov & Macdonald 2023, gSASRec (arXiv 2308.07192), their checkpoint",
        },
    },
)

if __name__ == "__main__":
    main(PROTOCOL, __doc__)
