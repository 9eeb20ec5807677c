"""Optimizers and schedules that Keras does not bring, and the choice among them."""
