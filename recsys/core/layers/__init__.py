"""Layers that Keras does not bring, in `keras.ops` only."""
