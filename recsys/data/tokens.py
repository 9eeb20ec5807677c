"""Search tokens: the unigrams and bigrams of a query, as in the paper, order discarded."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.data.vocabulary import Vocabulary

VOCABULARY = "search_token"
"""Name of the vocabulary of tokens."""


def tokens(query: str) -> list[str]:
    """Return the words of a casefolded query, and every two neighbours joined by a space."""
    words = query.casefold().split()
    return words + [f"{first} {second}" for first, second in zip(words, words[1:], strict=False)]


def tokenize(queries: pa.ChunkedArray) -> tuple[np.ndarray, list[list[str]]]:
    """Tokenize each distinct query once.

    Returns:
        int64 [n], the distinct query of each row, and the tokens of each distinct query.
    """
    encoded = pc.dictionary_encode(queries.combine_chunks())
    distinct = [tokens(query) for query in encoded.dictionary.to_pylist()]
    return encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64), distinct


def count_tokens(queries: pa.ChunkedArray) -> tuple[list[str], np.ndarray]:
    """Count how often each token was searched: the tokens and int64 counts."""
    position, distinct = tokenize(queries)
    times = np.bincount(position, minlength=len(distinct)).tolist()
    counts: dict[str, int] = {}
    for query_tokens, count in zip(distinct, times, strict=True):
        for token in query_tokens:
            counts[token] = counts.get(token, 0) + count
    return list(counts), np.fromiter(counts.values(), np.int64, len(counts))


def token_codes(
    queries: pa.ChunkedArray | Sequence[str], vocabulary: Vocabulary
) -> tuple[np.ndarray, np.ndarray]:
    """Turn queries into codes of known tokens.

    Returns:
        int64 [n], the number of known tokens of each query, and int32 [S], their codes (never
        0), query after query.
    """
    if not isinstance(queries, pa.ChunkedArray):
        queries = pa.chunked_array([pa.array(queries, pa.string())])
    position, distinct = tokenize(queries)
    flat = vocabulary.codes([token for of_query in distinct for token in of_query])
    owner = np.repeat(np.arange(len(distinct)), [len(of_query) for of_query in distinct])
    owner, flat = owner[flat > 0], flat[flat > 0]
    lengths = np.bincount(owner, minlength=len(distinct))
    starts = np.cumsum(lengths) - lengths
    counts = lengths[position]
    return counts, flat[ranges(starts[position], counts)]


def ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Concatenate `start, start + 1, ..., start + length - 1` of every pair: int64."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(starts - (ends - lengths), lengths)
