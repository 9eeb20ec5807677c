"""Hostile input: requests, bundles, and what must hold whatever they are."""
