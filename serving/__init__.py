"""The gRPC service: a thin edge round `recsys.recommender`, and the store of users' state."""
