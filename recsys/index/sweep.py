"""Search settings of an inverted index, by a sweep over real queries.

More lists probed and more vectors scored exactly find more, and cost more. The cheapest pair that
finds enough is taken. Cost is the bytes that a query reads, not a time: the same vectors give the
same index on any machine, busy or not. The pipeline measures times beside it, for the report.
"""

from recsys.index.approximate import COMPRESSED_KINDS, ApproximateIndex, code_bytes
from recsys.index.recall import Truth

RESCORE_FACTORS = (1.25, 2.0, 4.0, 8.0)
FLOAT_BYTES = 4
RANDOM_READ = 4
"""A vector somewhere in memory costs as much as this many read in a row."""
FINEST_STEP = 1.1
"""Probes are narrowed down until the next fewer is within this factor."""


def sweep(index: ApproximateIndex, truth: Truth) -> ApproximateIndex:
    """Return the index with the cheapest settings that reach half way from the floor to 1.

    What the settings fix is kept. Where nothing gets there, all lists are probed and the most
    vectors scored.

    Args:
        index: Of a kind with lists.
        truth: Queries as they will come.
    """
    settings = index.settings
    factors: tuple[float, ...] = RESCORE_FACTORS
    if settings.kind not in COMPRESSED_KINDS:
        factors = (1.0,)
    elif settings.rescore_factor is not None:
        factors = (settings.rescore_factor,)
    found = [
        tried
        for factor in factors
        if (tried := _fewest_probes(index.with_settings(rescore_factor=factor), truth)) is not None
    ]
    if not found:
        probes = settings.num_probes or settings.num_lists
        return index.with_settings(rescore_factor=factors[-1], num_probes=probes)
    return min(found, key=lambda each: query_bytes(each, truth.rows.shape[1]))


def query_bytes(index: ApproximateIndex, k: int) -> float:
    """Estimate what a query for k rows reads: centroids, codes of the lists probed, vectors."""
    settings, width = index.settings, FLOAT_BYTES * index.vectors.shape[1]
    num_lists, factor = settings.num_lists or 1, settings.rescore_factor or 1.0
    codes = (settings.num_probes or num_lists) / num_lists * len(index) * code_bytes(index)
    return num_lists * width + codes + RANDOM_READ * factor * k * width


def _fewest_probes(index: ApproximateIndex, truth: Truth) -> ApproximateIndex | None:
    """Return the index with the fewest probes that find enough, None if all do not."""
    settings = index.settings
    target, num_lists = (1 + settings.recall_floor) / 2, settings.num_lists or 1

    def with_probes(number: int) -> ApproximateIndex:
        return index.with_settings(num_probes=number)

    if settings.num_probes is not None:
        return index if truth.recall(index) >= target else None
    few, many = 0, 1
    while truth.recall(with_probes(many)) < target:
        if many == num_lists:
            return None
        few, many = many, min(2 * many, num_lists)
    while many - few > 1 and many > FINEST_STEP * few:
        middle = (few + many) // 2
        if truth.recall(with_probes(middle)) >= target:
            many = middle
        else:
            few = middle
    return with_probes(many)
