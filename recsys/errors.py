"""The one tree of errors that a caller may act on.

A message says what is wrong, what was expected, what came, and how to mend it. Arguments that
only a programmer can get wrong raise `ValueError` instead.
"""


class RecsysError(Exception):
    """Base of every error that this library raises on purpose."""


class ConfigError(RecsysError):
    """A configuration file or key is wrong."""


class DataError(RecsysError):
    """Input data breaks the data contract."""


class TrainingError(RecsysError):
    """A training cannot go on: a loss that is not finite, a checkpoint that does not fit."""


class TrainingInterrupted(RecsysError):
    """A training ended early because a signal asked for it; started again, it goes on."""


class ArtefactError(RecsysError):
    """A directory written by a pipeline step is missing, broken or not what was expected."""


class BundleError(ArtefactError):
    """A bundle is incomplete, altered, or of a format that this version does not read."""


class IndexRecallError(ArtefactError):
    """An index finds fewer true neighbours than its floor demands."""


class ComparisonError(RecsysError):
    """A log or a test cannot answer which of two is better: no propensities, no overlap."""


class StateError(RecsysError):
    """The state store cannot be read or written."""


class RequestError(RecsysError):
    """A request asks for something that has no meaning here.

    Args:
        field: Path of the offending field, as in the API (`filter`, `history[3].item_id`).
        description: What was expected, what came, how to mend it.
    """

    def __init__(self, field: str, description: str) -> None:
        super().__init__(f"{field}: {description}")
        self.field = field
        self.description = description
