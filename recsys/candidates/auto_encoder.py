"""An auto-encoder of what users watched: layer after layer at first, then all together.

    x -> W_1 -> ... -> code -> ... -> logits of all items,   x = watched / |watched|, some hidden

Each layer learns, with a decoder of its own, to give back what comes into it, while those below
stand still; then they are unrolled into one net and learn together what the whole gives back.
A user's first hidden layer is a sum of rows of W_1 over their watches, as a bag is of the item
table's: these rows are the item vectors. Unlike Hinton and Salakhutdinov's stack of Boltzmann
machines, each layer is an auto-encoder (Bengio et al., section 4), and watches are a draw from one
multinomial, as Liang et al. have it, not one Bernoulli an item.

References:
    Hinton & Salakhutdinov 2006, Reducing the Dimensionality of Data with Neural Networks.
    Bengio, Lamblin, Popovici & Larochelle 2007, Greedy Layer-Wise Training of Deep Networks.
    Liang et al. 2018, Variational Autoencoders for Collaborative Filtering (Mult-DAE).
"""

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
from keras import ops

from recsys.candidates.watch_vectors import WatchVectors
from recsys.core import losses
from recsys.core.backends import Batch, Loss, Tensor, to_numpy
from recsys.core.layers.dense import Dense
from recsys.core.random import stream_seed
from recsys.core.training import Batches, TrainingHistory, train
from recsys.settings import AutoEncoderSettings, TrainingSettings, VariationalSettings

Validate = Callable[[], dict[str, float]]


class Level(keras.Model):  # type: ignore[misc]
    """One layer, with what gives its inputs back.

    Args:
        encoder, decoder: Of the layer.
        inputs_of: Makes its inputs of what users watched; what it uses stands still.
        dropout: Share of the inputs that are hidden.
        seed: Of the dropout.
        reads_watches: The inputs are the watches themselves, and the decoder gives logits.
    """

    def __init__(
        self,
        encoder: Dense,
        decoder: Dense,
        inputs_of: Callable[[Tensor], Tensor],
        *,
        dropout: float,
        seed: int,
        reads_watches: bool,
    ) -> None:
        super().__init__(name="level")
        self.encoder, self.decoder, self.inputs_of = encoder, decoder, inputs_of
        self.dropout = keras.layers.Dropout(dropout, seed=seed)
        self.reads_watches, self.built = reads_watches, True

    def loss_of(self, batch: Batch, training: bool = True) -> tuple[Tensor, dict[str, Tensor]]:
        """Return how badly the layer gives its inputs back: squared error, or the multinomial."""
        inputs = self.inputs_of(batch["watched"])
        given_back = self.decoder(self.encoder(self.dropout(inputs, training=training)))
        if self.reads_watches:
            values = losses.multinomial(given_back, batch["watched"])
        else:
            values = ops.mean(ops.square(given_back - inputs), axis=-1)
        return losses.weighted_mean(values, batch["weight"]), {}


class AutoEncoder(keras.Model):  # type: ignore[misc]
    """The whole net: layers that narrow, and as many that widen again.

    Args:
        num_items: N.
        widths: Of the layers, the code's last.
        dropout: Share of the watches that are hidden while training.
        seed: Of initial values and dropout.
    """

    def __init__(
        self, num_items: int, widths: tuple[int, ...], dropout: float, *, seed: int
    ) -> None:
        super().__init__(name="auto_encoder")
        self.num_items, self.widths, self.dropout_share, self.seed = (
            num_items,
            widths,
            dropout,
            seed,
        )
        self.dropout = keras.layers.Dropout(dropout, seed=stream_seed(seed, "dropout"))
        self.encoders = [new_layer(width, seed, "encoder", n) for n, width in enumerate(widths)]
        outputs = (num_items, *widths[:-1])
        self.decoders = [
            new_layer(width, seed, "decoder", n, is_linear=n == 0)
            for n, width in enumerate(outputs)
        ]
        self.build()

    def build(self, batch_shape: object = None) -> None:
        """Make the weights of all layers."""
        for encoder, decoder, inputs in zip(
            self.encoders, self.decoders, (self.num_items, *self.widths), strict=False
        ):
            encoder.build((None, inputs))
            decoder.build((None, encoder.units))
        self.built = True

    def call(self, watched: Tensor, training: bool = False) -> Tensor:
        """Return what the last layer reads: float [B, N] -> [B, D]."""
        hidden = self.dropout(unit_length(watched), training=training)
        for encoder in self.encoders:
            hidden = encoder(hidden)
        for decoder in reversed(self.decoders[1:]):
            hidden = decoder(hidden)
        return hidden

    def loss_of(self, batch: Batch, training: bool = True) -> tuple[Tensor, dict[str, Tensor]]:
        """Return how badly the net gives back what was watched: `WatchVectors` has the batch."""
        logits = self.decoders[0](self(batch["watched"], training=training))
        values = losses.multinomial(logits, batch["watched"])
        return losses.weighted_mean(values, batch["weight"]), {}

    def level(self, number: int) -> Level:
        """Return a layer, from 0, to be trained alone; its weights are those of the net."""

        def inputs_of(watched: Tensor) -> Tensor:
            hidden = unit_length(watched)
            for encoder in self.encoders[:number]:
                hidden = encoder(hidden)
            return ops.stop_gradient(hidden)

        return Level(
            self.encoders[number],
            self.decoders[number],
            inputs_of,
            dropout=self.dropout_share if number == 0 else 0.0,
            seed=stream_seed(self.seed, "level", number),
            reads_watches=number == 0,
        )

    def item_rows(self) -> np.ndarray:
        """Return the rows of W_1: float32 [N, D]."""
        return to_numpy(self.encoders[0].kernel.value)

    def item_vectors(self) -> np.ndarray:
        """Return what `user_vectors` are multiplied with: float32 [N, D + 1]."""
        return output_rows(self.decoders[0])

    def user_vectors(self, watched: np.ndarray) -> np.ndarray:
        """Return users by what they watched: float32 [B, N] -> [B, 1, D + 1]."""
        return with_one(to_numpy(self(watched)))


def train_auto_encoder(
    net: AutoEncoder,
    batches: WatchVectors,
    settings: AutoEncoderSettings,
    validate: Validate | None = None,
    *,
    directory: Path,
    seed: int,
) -> TrainingHistory:
    """Train layer after layer, then all together; take up what was begun in the directory.

    Args:
        net: Untrained.
        batches: Of the training watches.
        settings: How long, how fast.
        validate: Measures the net after each epoch of all together by `ndcg@10`; None keeps the
            last weights.
        directory: For checkpoints and curves, of the layers below it.
        seed: Of the batches.
    """
    if settings.level_epochs:
        for number in range(len(net.widths)):
            level, place = net.level(number), directory / f"level_{number + 1}"
            train_watch_net(
                level,
                level.loss_of,
                batches,
                training_of(settings, settings.level_epochs),
                directory=place,
                seed=seed,
            )
    training = training_of(settings, settings.max_epochs)
    return train_watch_net(
        net, net.loss_of, batches, training, validate, directory=directory, seed=seed
    )


def train_watch_net(
    net: keras.Model,
    loss: Loss,
    batches: Batches,
    settings: TrainingSettings,
    validate: Validate | None = None,
    *,
    directory: Path,
    seed: int,
) -> TrainingHistory:
    """Train one net over what users watched, by the core's loop."""
    directory.mkdir(parents=True, exist_ok=True)
    return train(
        net,
        loss,
        batches,
        validate,
        settings,
        monitor="ndcg@10",
        larger_is_better=True,
        directory=directory,
        seed=seed,
        description=net.name.replace("_", " "),
        num_batches=None,
    )


def training_of(
    settings: AutoEncoderSettings | VariationalSettings, max_epochs: int
) -> TrainingSettings:
    """Return the settings of the core's loop: all epochs, whatever the validation says."""
    return TrainingSettings(
        batch_size=settings.batch_size,
        max_epochs=max_epochs,
        patience=max_epochs,
        learning_rate=settings.learning_rate,
        tensorboard=False,
    )


def new_layer(units: int, seed: int, *names: str | int, is_linear: bool = False) -> Dense:
    """Return a layer of tanh units, or of linear ones."""
    start = keras.initializers.GlorotUniform(stream_seed(seed, *names))
    return Dense(units, start, activation=None if is_linear else ops.tanh)


def unit_length(watched: Tensor) -> Tensor:
    """Return rows of length 1, zeros for a user without watches: float [B, N] -> [B, N]."""
    square = ops.sum(ops.square(watched), axis=-1, keepdims=True)
    return watched / ops.sqrt(ops.maximum(square, 1.0))


def output_rows(layer: Dense) -> np.ndarray:
    """Return the weights into each unit, its bias behind them: float32 [U, D + 1]."""
    columns = [to_numpy(layer.kernel.value), to_numpy(layer.bias.value)[None]]  # type: ignore[union-attr]
    return np.concatenate(columns).T


def with_one(hidden: np.ndarray) -> np.ndarray:
    """Return hidden units with a 1 for the bias, as one interest: [B, D] -> [B, 1, D + 1]."""
    return np.concatenate([hidden, np.ones_like(hidden[:, :1])], axis=1)[:, None]
