"""What a command sets before any library reads it; nothing below `main` reads the environment."""

import os


def set_up() -> None:
    """Quiet TensorFlow's start-up lines, unless the user asked for them."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
