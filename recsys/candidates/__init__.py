"""The candidate stage: a softmax over the catalogue, as user and item vectors."""
