"""Readers of event logs: each turns its own format into the tables of the data contract."""
