"""A variational auto-encoder of what users watched: its code is drawn, near a standard normal.

    x -> W_1 -> mean, log variance -> z ~ N(mean, e^v) -> logits,   x = watched / |watched|

Least is - log p(watched | z) + beta KL(q(z | x) || N(0, 1)), the multinomial likelihood; beta rises
from 0, since a code that is pulled to the prior before it says anything stays there. A user is
served by the mean of the code.

References:
    Liang, Krishnan, Hoffman & Jebara 2018, Variational Autoencoders for Collaborative Filtering.
    Kingma & Welling 2014, Auto-Encoding Variational Bayes.
"""

from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np

from recsys.candidates.auto_encoder import (
    Validate,
    new_layer,
    output_rows,
    train_watch_net,
    training_of,
    unit_length,
    with_one,
)
from recsys.candidates.watch_vectors import WatchVectors
from recsys.core import losses
from recsys.core.backends import Batch, Tensor, to_numpy
from recsys.core.layers.gaussian import GaussianSample
from recsys.core.random import stream_seed
from recsys.core.training import TrainingHistory
from recsys.settings import VariationalSettings


class VariationalAutoEncoder(keras.Model):  # type: ignore[misc]
    """One hidden layer on each side of the code (Liang et al. 2018, section 4.4).

    Args:
        num_items: N.
        width: D, of the hidden layers.
        code_width: L.
        dropout: Share of the watches that are hidden while training.
        seed: Of initial values, dropout and codes.
    """

    def __init__(
        self, num_items: int, width: int, code_width: int, dropout: float, *, seed: int
    ) -> None:
        super().__init__(name="variational_auto_encoder")
        self.num_items, self.width = num_items, width
        self.dropout = keras.layers.Dropout(dropout, seed=stream_seed(seed, "dropout"))
        self.encoder = new_layer(width, seed, "encoder")
        self.to_mean = new_layer(code_width, seed, "mean", is_linear=True)
        self.to_log_variance = new_layer(code_width, seed, "log_variance", is_linear=True)
        self.sample = GaussianSample(seed=stream_seed(seed, "code"))
        self.decoder = new_layer(width, seed, "decoder")
        self.output_layer = new_layer(num_items, seed, "output", is_linear=True)
        self.build()

    def build(self, batch_shape: object = None) -> None:
        """Make the weights of all layers."""
        self.encoder.build((None, self.num_items))
        for to_code in (self.to_mean, self.to_log_variance):
            to_code.build((None, self.width))
        self.decoder.build((None, self.to_mean.units))
        self.output_layer.build((None, self.width))
        self.built = True

    def call(self, watched: Tensor, training: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Return what the last layer reads, and of what the code is drawn.

        Args:
            watched: float [B, N].
            training: Hide some watches, and draw the code; else it is its mean.

        Returns:
            float [B, D]; mean and logarithm of the variance, float [B, L].
        """
        hidden = self.encoder(self.dropout(unit_length(watched), training=training))
        mean, log_variance = self.to_mean(hidden), self.to_log_variance(hidden)
        code = self.sample(mean, log_variance, training=training)
        return self.decoder(code), mean, log_variance

    def loss_of(self, batch: Batch, training: bool = True) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the negative lower bound, and its part from the prior.

        Args:
            batch: As `WatchVectors` gives it, and `divergence_weight` float32 [].
            training: As of `call`.
        """
        hidden, mean, log_variance = self(batch["watched"], training=training)
        surprise = losses.multinomial(self.output_layer(hidden), batch["watched"])
        divergence = losses.divergence_from_standard_normal(mean, log_variance)
        values = surprise + batch["divergence_weight"] * divergence
        figures = {"divergence": losses.weighted_mean(divergence, batch["weight"])}
        return losses.weighted_mean(values, batch["weight"]), figures

    def item_rows(self) -> np.ndarray:
        """Return the rows of W_1: float32 [N, D]."""
        return to_numpy(self.encoder.kernel.value)

    def item_vectors(self) -> np.ndarray:
        """Return what `user_vectors` are multiplied with: float32 [N, D + 1]."""
        return output_rows(self.output_layer)

    def user_vectors(self, watched: np.ndarray) -> np.ndarray:
        """Return users by what they watched: float32 [B, N] -> [B, 1, D + 1]."""
        return with_one(to_numpy(self(watched)[0]))


def train_variational(
    net: VariationalAutoEncoder,
    batches: WatchVectors,
    settings: VariationalSettings,
    validate: Validate | None = None,
    *,
    directory: Path,
    seed: int,
) -> TrainingHistory:
    """Train, or take up what was begun in the directory; arguments as of `train_auto_encoder`."""

    def weighted(epoch: int) -> Iterator[dict[str, np.ndarray]]:
        for number, batch in enumerate(batches(epoch)):
            done = epoch + number / batches.num_batches()
            yield {**batch, "divergence_weight": annealed(settings, done)}

    training = training_of(settings, settings.max_epochs)
    return train_watch_net(
        net, net.loss_of, weighted, training, validate, directory=directory, seed=seed
    )


def annealed(settings: VariationalSettings, epochs_done: float) -> np.ndarray:
    """Return the weight of the divergence after so many epochs: float32 []."""
    if settings.annealing_epochs == 0:
        return np.asarray(settings.beta, np.float32)
    share = min(epochs_done / settings.annealing_epochs, 1.0)
    return np.asarray(settings.beta * share, np.float32)
