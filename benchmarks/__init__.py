"""One file a claim: each runs as `python -m benchmarks.NAME` and ends with one JSON object."""
