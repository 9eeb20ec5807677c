"""The synthetic world as a site: what would really have come of a recommender."""
