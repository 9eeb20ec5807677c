"""Tests on real users: who sees what, and what may be concluded. Takes arrays, never models."""
