"""The candidate net as a policy: what it would show, beside what the logging policy did.

The behaviour head estimates the probability with which the log has an item in a user's state
(Chen et al. 2019, section 4.3): a softmax of its own over the net's hidden units, whose gradients
end there, so that it learns from what the net knows of users and teaches it nothing.
"""

import keras
from keras import ops

from recsys.core.backends import Batch, Tensor, gather_rows
from recsys.core.losses import weighted_mean
from recsys.core.policy_gradient import off_policy_weight, policy_gradient_loss
from recsys.core.random import stream_seed
from recsys.core.softmax import sampled_softmax
from recsys.settings import PolicyGradientSettings


class BehaviourHead(keras.layers.Layer):  # type: ignore[misc]
    """Scores of items under the logging policy.

    Args:
        settings: Of the policy gradient.
        num_items: N.
        width: D, of its vectors.
        seed: Of initial values.
    """

    def __init__(
        self, settings: PolicyGradientSettings, num_items: int, width: int, *, seed: int
    ) -> None:
        super().__init__(name="behaviour")
        self.settings, self.num_items, self.width = settings, num_items, width
        start = keras.initializers.GlorotUniform(stream_seed(seed, "behaviour_vector"))
        self.to_vector = keras.layers.Dense(width, kernel_initializer=start, name="vector")
        self.start = keras.initializers.RandomNormal(
            stddev=0.1 * width**-0.5, seed=stream_seed(seed, "behaviour_rows")
        )

    def build(self, hidden_shape: tuple[int | None, ...]) -> None:
        """Make the variables: float32 [N, D] rows, [N] biases."""
        self.to_vector.build(hidden_shape)
        shape = (self.num_items, self.width)
        self.rows = self.add_weight(shape=shape, initializer=self.start, name="behaviour_table")
        self.bias = self.add_weight(
            shape=(self.num_items,), initializer="zeros", name="behaviour_bias_table"
        )

    def call(self, hidden: Tensor) -> Tensor:
        """Return vectors of users: float [R, H] -> [R, D]."""
        return self.to_vector(ops.stop_gradient(hidden))

    def logits(self, vectors: Tensor) -> Tensor:
        """Return the scores of all items: [R, D] -> [R, N]."""
        return ops.matmul(vectors, ops.transpose(ops.convert_to_tensor(self.rows))) + self.bias

    def logits_of(self, vectors: Tensor, items: Tensor) -> Tensor:
        """Return the score of one item of each user: [R, D], int [R] -> [R]."""
        own = gather_rows(self.rows, items)
        return ops.sum(vectors * own, axis=-1) + gather_rows(self.bias, items)

    def logits_of_shared(self, vectors: Tensor, items: Tensor) -> Tensor:
        """Return the scores of items that all users share: [R, D], int [M] -> [R, M]."""
        rows = ops.transpose(gather_rows(self.rows, items))
        return ops.matmul(vectors, rows) + gather_rows(self.bias, items)


def surprise(logits: Tensor, labels: Tensor) -> Tensor:
    """Return - log softmax of the labels: float [R, N], int [R] -> [R]."""
    label_logits = ops.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
    return ops.logsumexp(logits, axis=1) - label_logits


def policy_loss(
    own: Tensor, hidden: Tensor, batch: Batch, head: BehaviourHead
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss of the policy and of what estimates the log's, and a figure of the weights.

    Args:
        own: float [R], - log pi of the labels: what the net would be surprised by.
        hidden: float [R, H], of the net.
        batch: As `recsys.candidates.model` describes it.
        head: Estimates beta where the log does not tell it.
    """
    labels, weights, rewards, logged = (
        ops.reshape(batch[name], (-1,)) for name in ("labels", "weight", "reward", "log_propensity")
    )
    of_log = _surprise_of_log(head, hidden, labels, batch)
    log_behaviour = ops.where(ops.isnan(logged), -ops.stop_gradient(of_log), logged)
    settings = head.settings
    cap = settings.weight_cap
    loss = policy_gradient_loss(-own, log_behaviour, rewards, top_k=settings.top_k, cap=cap)
    weight = off_policy_weight(-own, log_behaviour, cap=cap)
    total = weighted_mean(loss + of_log, weights)
    return total, {"off_policy_weight": weighted_mean(weight, weights)}


def _surprise_of_log(head: BehaviourHead, hidden: Tensor, labels: Tensor, batch: Batch) -> Tensor:
    """Return - log beta of the labels as the head has it: float [R]."""
    vectors = head(hidden)
    if "negatives" not in batch:
        return surprise(head.logits(vectors), labels)
    negatives = batch["negatives"]
    return sampled_softmax(
        head.logits_of(vectors, labels),
        head.logits_of_shared(vectors, negatives),
        labels,
        negatives,
        batch["log_expected_counts"],
    )
