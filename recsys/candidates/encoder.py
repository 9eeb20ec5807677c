"""What is known of a user from what they watched: every prefix of a history as one row, or several.

    bag           means of the newest watches, several windows side by side (Covington et al. 2016)
    gru, lstm     a recurrent net reads the history (Hidasi et al. 2016), beside the bags
    convolution   filters over the newest watches (Tang & Wang 2018), beside the bags
    attention     gated causal blocks read it, beside the bags
    capsules      several interests, a row each, the bags beside every one (Li et al. 2019)

`windows` may be empty for all but the first. All prefixes come from one pass over the history.
"""

from typing import Any

import keras
from keras import ops

from recsys.candidates.interests import by_interest
from recsys.core.backends import Tensor
from recsys.core.layers.attention import CausalAttention
from recsys.core.layers.bag import prefix_window_means
from recsys.core.layers.capsules import InterestCapsules
from recsys.core.layers.convolution import PrefixConvolution
from recsys.core.layers.prefixes import at_prefixes
from recsys.core.random import stream_seed
from recsys.settings import CandidateSettings

NUM_VERTICAL_FILTERS = 4


class HistoryEncoder(keras.layers.Layer):  # type: ignore[misc]
    """Encodes prefixes of embedded histories.

    Args:
        settings: Which encoder, how deep.
        seed: Of initial values and dropout.
    """

    def __init__(self, settings: CandidateSettings, *, seed: int, name: str | None = None) -> None:
        super().__init__(name=name)
        self.settings = settings
        self.reader = _new_reader(settings, seed)
        self.row_dropout = keras.layers.Dropout(
            settings.encoder_dropout, seed=stream_seed(seed, "row_dropout")
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
            float [B, P * K, num_outputs], the K interests of a prefix one after another.
        """
        parts = []
        if self.settings.windows:
            bags = prefix_window_means(rows, positions, self.settings.windows)
            parts.append(by_interest(bags, self.settings.interests))
        if self.reader is not None:
            read = self.row_dropout(rows, training=training)
            parts.append(self._read(self.reader, read, positions, seconds, training))
        return ops.concatenate(parts, axis=-1)

    @staticmethod
    def _read(
        reader: keras.layers.Layer,
        rows: Tensor,
        positions: Tensor,
        seconds: Tensor | None,
        training: bool,
    ) -> Tensor:
        """Return what the reader knows of each prefix: [B, T, D] -> [B, P * K, D]."""
        if isinstance(reader, InterestCapsules):
            interests = reader(rows, positions, training=training)
            shape = ops.shape(interests)
            return ops.reshape(interests, (shape[0], shape[1] * shape[2], reader.width))
        if isinstance(reader, CausalAttention):
            states = reader(rows, seconds, training=training)
        elif isinstance(reader, PrefixConvolution):
            states = reader(rows, training=training)
        else:
            states = reader(rows, training=training)
            states = ops.concatenate([ops.zeros_like(states[:, :1]), states], axis=1)
        return at_prefixes(states, positions)


def _new_reader(settings: CandidateSettings, seed: int) -> keras.layers.Layer | None:
    """Return what reads the history beside the bags; None for bags alone."""
    width = settings.embedding_width
    if settings.encoder in ("gru", "lstm"):
        recurrent = {"gru": keras.layers.GRU, "lstm": keras.layers.LSTM}[settings.encoder]
        inner_seed = stream_seed(seed, f"{settings.encoder}_recurrent")
        return recurrent(
            width,
            return_sequences=True,
            kernel_initializer=keras.initializers.GlorotUniform(
                stream_seed(seed, settings.encoder)
            ),
            recurrent_initializer=keras.initializers.Orthogonal(seed=inner_seed),
            name="reader",
        )
    if settings.encoder == "convolution":
        return PrefixConvolution(
            width,
            length=settings.filter_length,
            heights=settings.filter_heights,
            num_filters=settings.num_filters,
            num_vertical=NUM_VERTICAL_FILTERS,
            seed=stream_seed(seed, "convolution"),
            name="reader",
        )
    if settings.encoder == "capsules":
        return InterestCapsules(
            width,
            num_interests=settings.num_interests,
            num_rounds=settings.routing_rounds,
            seed=stream_seed(seed, "capsules"),
            name="reader",
        )
    if settings.encoder == "attention":
        return CausalAttention(
            width,
            num_blocks=settings.num_blocks,
            num_heads=settings.num_heads,
            dropout=settings.encoder_dropout,
            with_times=settings.watch_times,
            seed=stream_seed(seed, "attention"),
            precision=settings.precision,
            name="reader",
        )
    return None
