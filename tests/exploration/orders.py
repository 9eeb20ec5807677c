"""Checks of propensities by counting: how often each candidate followed what stood before it."""

import numpy as np


def count_followers(orders):
    """Return prefix -> counts of the candidates that followed it: int [R, C] -> {tuple: [C]}."""
    followers = {}
    for order in orders.tolist():
        for place, candidate in enumerate(order):
            counts = followers.setdefault(tuple(order[:place]), np.zeros(len(order), int))
            counts[candidate] += 1
    return followers


def chi_squares(orders, propensities_of, min_expected=10.0):
    """Return the chi-square statistic of each prefix and its degrees of freedom.

    Args:
        orders: int [R, C], drawn.
        propensities_of: Takes one order, gives the propensity of each of its places.
        min_expected: Prefixes of which a candidate is expected less often are left out.
    """
    found = {}
    for prefix, counts in count_followers(orders).items():
        left = [number for number in range(len(counts)) if number not in prefix]
        probability = np.array(
            [
                propensities_of(np.array([*prefix, each, *(n for n in left if n != each)]))[
                    len(prefix)
                ]
                for each in left
            ]
        )
        expected = probability * counts.sum()
        if len(left) > 1 and expected.min() >= min_expected:
            statistic = float((np.square(counts[left] - expected) / expected).sum())
            found[prefix] = (statistic, len(left) - 1)
    return found
