"""A two-stage recommender: candidates from a softmax net, ranked by expected watch time."""
