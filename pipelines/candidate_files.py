"""What the candidate net leaves beside its weights: users' vectors, successors, the projector."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.candidates.crowd import Crowd
from recsys.candidates.sequences import join_sequences, newest_labels
from recsys.candidates.side_by_side import SideBySide
from recsys.candidates.vectors import Inputs, served_inputs
from recsys.core.tensorboard import MAX_PROJECTED, write_projector
from recsys.data.prepared import Prepared, Shard
from recsys.progress import track
from recsys.settings import CandidateSettings


def write_item_projector(vectors: np.ndarray, log: Prepared, out: Path) -> None:
    """Show the items watched most, by id and title where there are titles, in the projector."""
    table = log.catalogue.table
    rows = np.argsort(-np.asarray(log.catalogue.watch_counts[: len(vectors)]), kind="stable")
    rows = rows[:MAX_PROJECTED]
    names = [name for name in ("item_id", "title") if name in table.column_names]
    columns = {name: table[name].take(pa.array(rows)).to_pylist() for name in names}
    write_projector(out, vectors[rows], columns)


def write_successors(crowd: Crowd, log: Prepared, settings: CandidateSettings, path: Path) -> None:
    """Write the newest successors of each item as of `data_until`, where the net has them."""
    successors = crowd.successors
    if successors is not None:
        codes = np.arange(1, log.catalogue.num_trained + 1)
        moments = np.full(len(codes), log.data_until)
        np.save(path, successors.newest(codes, moments, max(settings.successor_windows)))


def write_user_vectors(
    nets: SideBySide, log: Prepared, settings: CandidateSettings, path: Path
) -> None:
    """Write the vectors of all users as of `data_until`, a row an interest."""
    vector = pa.list_(pa.float32(), nets.width)
    schema = pa.schema([("user_id", pa.string()), ("vector", vector)])
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for shard in track(log.shards, "user vectors"):
            vectors = nets.user_vectors(inputs_of(shard, log, settings))
            columns = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), nets.width)
            user_ids = np.repeat(shard.user_ids.astype(np.str_), settings.interests)
            ids = pa.array(user_ids.tolist(), pa.string())
            writer.write_table(pa.Table.from_arrays([ids, columns], schema=schema))


def inputs_of(shard: Shard, log: Prepared, settings: CandidateSettings) -> Inputs:
    """Return the towers' inputs for a shard's users as of `data_until`."""
    parts = [(shard.histories, shard.candidates)]
    has_time = bool(shard.candidates.has_time.any())
    labels = newest_labels(parts[0], settings, log.data_until, has_time=has_time)
    inputs = dict(served_inputs(join_sequences(parts), labels, settings))
    if settings.forecast_minutes:  # Made just then, whatever the time of day.
        inputs["minutes_since_forecast"] = np.zeros(len(labels), np.float32)
    return inputs
