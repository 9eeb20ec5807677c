"""Readers of event logs: each turns its own format into the tables of the data contract."""

from recsys.data.log import Log
from recsys.data.sources import globo, kuairand, movielens, sequences, served, synthetic, table
from recsys.settings import DataSettings

READERS = {
    "globo": globo.read,
    "kuairand": kuairand.read,
    "movielens": movielens.read,
    "sequences": sequences.read,
    "served": served.read,
    "synthetic": synthetic.read,
    "table": table.read,
}


def open_log(settings: DataSettings, seed: int) -> Log:
    """Open the log that the settings name.

    Args:
        settings: Source, path and options.
        seed: Of the synthetic world; logs on disk ignore it.

    Raises:
        ConfigError: The path is missing, or an option is not one that the source knows.
        DataError: The path holds nothing that the source can read.
    """
    return READERS[settings.source](settings, seed)
