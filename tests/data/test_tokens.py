import numpy as np
import pyarrow as pa

from recsys.data.tokens import count_tokens, token_codes, tokens
from recsys.data.vocabulary import Vocabulary


def test_tokens_are_casefolded_words_and_neighbours():
    assert tokens("  New YORK straße ") == ["new", "york", "strasse", "new york", "york strasse"]


def test_tokens_of_one_word_and_of_nothing():
    assert tokens("cat") == ["cat"]
    assert tokens(" \t") == []


def test_counts_add_up_over_queries():
    found, counts = count_tokens(pa.chunked_array([["a b", "b"], ["a b"]]))
    assert dict(zip(found, counts.tolist(), strict=True)) == {"a": 2, "b": 3, "a b": 2}


def test_codes_keep_queries_in_order_and_drop_unknown():
    vocabulary = Vocabulary.from_ids(["b", "a"])
    counts, codes = token_codes(["a b", "?", "b b", "a b"], vocabulary)
    assert counts.tolist() == [2, 0, 2, 2]
    assert codes.tolist() == [2, 1, 1, 1, 2, 1]
    assert codes.dtype == np.int32


def test_no_queries_have_no_tokens():
    counts, codes = token_codes([], Vocabulary.from_ids(["a"]))
    assert (len(counts), len(codes)) == (0, 0)
