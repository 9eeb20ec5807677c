"""What is known of a user from what they watched: every prefix of a history as one row.

    bag         means of the newest watches, several windows side by side (Covington et al. 2016)
    gru         a recurrent net reads the history (Hidasi et al. 2016), beside the bags
    attention   gated causal blocks read it, beside the bags

`windows` may be empty for the latter two. All prefixes come from one pass over the history.
"""

from typing import Any

import keras
from keras import ops

from recsys.core.backends import Tensor
from recsys.core.layers.attention import CausalAttention
from recsys.core.layers.bag import prefix_window_means
from recsys.core.layers.prefixes import at_prefixes
from recsys.core.random import stream_seed
from recsys.settings import CandidateSettings


class HistoryEncoder(keras.layers.Layer):  # type: ignore[misc]
    """Encodes prefixes of embedded histories.

    Args:
        settings: Which encoder, how deep.
        seed: Of initial values and dropout.
    """

    def __init__(self, settings: CandidateSettings, *, seed: int, name: str | None = None) -> None:
        super().__init__(name=name)
        self.settings = settings
        width = settings.embedding_width
        self.reader: keras.layers.Layer | None = None
        self.row_dropout = keras.layers.Dropout(
            settings.encoder_dropout, seed=stream_seed(seed, "row_dropout")
        )
        if settings.encoder == "gru":
            start = keras.initializers.GlorotUniform(stream_seed(seed, "gru"))
            inner = keras.initializers.Orthogonal(seed=stream_seed(seed, "gru_recurrent"))
            self.reader = keras.layers.GRU(
                width,
                return_sequences=True,
                kernel_initializer=start,
                recurrent_initializer=inner,
                name="reader",
            )
        elif settings.encoder == "attention":
            self.reader = CausalAttention(
                width,
                num_blocks=settings.num_blocks,
                num_heads=settings.num_heads,
                dropout=settings.encoder_dropout,
                with_times=settings.watch_times,
                seed=stream_seed(seed, "attention"),
                precision=settings.precision,
                name="reader",
            )

    @property
    def num_outputs(self) -> int:
        """Columns of an encoded prefix."""
        parts = len(self.settings.windows) + (self.reader is not None)
        return parts * self.settings.embedding_width

    def build(self, rows_shape: Any) -> None:
        """Make the weights; the length of the histories is open."""
        if self.reader is not None:
            self.reader.build((None, None, self.settings.embedding_width))

    def call(
        self,
        rows: Tensor,
        positions: Tensor,
        seconds: Tensor | None = None,
        training: bool = False,
    ) -> Tensor:
        """Encode prefixes.

        Args:
            rows: float [B, T, D], embedded watches, oldest first, padded on the right.
            positions: int [B, P], lengths of the prefixes, 0 to T.
            seconds: float [B, T], when each was watched, for `watch_times`.
            training: Whether dropout is on.

        Returns:
            float [B, P, num_outputs].
        """
        parts = []
        if self.settings.windows:
            parts.append(prefix_window_means(rows, positions, self.settings.windows))
        if self.reader is not None:
            read = self.row_dropout(rows, training=training)
            parts.append(at_prefixes(self._read(self.reader, read, seconds, training), positions))
        return ops.concatenate(parts, axis=-1)

    @staticmethod
    def _read(
        reader: keras.layers.Layer, rows: Tensor, seconds: Tensor | None, training: bool
    ) -> Tensor:
        """Return the state before and after each watch: [B, T, D] -> [B, T + 1, D]."""
        if isinstance(reader, CausalAttention):
            return reader(rows, seconds, training=training)
        states = reader(rows, training=training)
        return ops.concatenate([ops.zeros_like(states[:, :1]), states], axis=1)
