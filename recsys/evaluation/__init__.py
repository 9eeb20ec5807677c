"""Metrics, intervals and reports. Takes arrays and callables, never models."""
