"""What a server is put through, and what must hold meanwhile: `python -m benchmarks.chaos`."""
