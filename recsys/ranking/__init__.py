"""The ranking stage: expected watch time of a candidate, for a user, in a context."""
