"""The work on one shard of users, or on one part of the items: pure functions for processes.

Order: `sort_shard` for every shard; the counts of all give catalogue and vocabularies; then
`build_shard` for every shard; then `total_counters_part` for every part of the items.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from recsys.artefacts import save_arrays
from recsys.data.building import (
    candidate_examples,
    channel_numbers,
    log_timelines,
    ranking_examples,
    request_moments,
)
from recsys.data.catalogue import Catalogue
from recsys.data.counter_parts import spill, total_part
from recsys.data.counters import CountedEvents, counted_values, total_counters
from recsys.data.intake import Cuts, Rejects
from recsys.data.partition import read_partition
from recsys.data.prepared import write_record
from recsys.data.schema import EVENTS, SEARCHES
from recsys.data.timelines import Timelines, watch_histories
from recsys.data.user_log import ItemDurations, UserLog, sort_user_log
from recsys.data.validation import reject_duplicates
from recsys.data.vocabularies import ShardCounts, count_shard
from recsys.data.vocabulary import Vocabulary
from recsys.settings import RecsysSettings


@dataclass(frozen=True)
class Workplace:
    """Where the work of one preparation lies, and what all of it needs to know.

    Args:
        out: The prepared directory.
        scratch: For what is not kept.
        settings: Of the run.
        cuts: Of the whole log.
    """

    out: Path
    scratch: Path
    settings: RecsysSettings
    cuts: Cuts

    def shard(self, number: int) -> Path:
        """Return the folder of a shard that is kept."""
        return self.out / "shards" / f"{number:05d}"

    def log(self, number: int) -> Path:
        """Return the folder of a shard's `UserLog` arrays."""
        return self.scratch / "logs" / f"{number:05d}"

    def spilled(self, kind: str, number: int) -> Path:
        """Return the folder of a shard's counted events, by `item` or `channel`."""
        return self.scratch / "counted" / kind / f"{number:05d}"


@dataclass(frozen=True)
class SortedShard:
    """What `sort_shard` found.

    Args:
        counts: For the catalogue and the vocabularies.
        num_users, num_events, num_watches: Kept.
        num_duplicates: Rejected.
        split_sizes: Events in training, validation, test.
    """

    counts: ShardCounts
    num_users: int
    num_events: int
    num_watches: int
    num_duplicates: int
    split_sizes: tuple[int, int, int]


def sort_shard(place: Workplace, number: int) -> SortedShard:
    """Order a shard's log, write it, and count what it holds for the training part."""
    events = read_partition(place.scratch / "events", number)
    checked = reject_duplicates(EVENTS.empty_table() if events is None else events)
    Rejects(place.out / "rejected").write(f"duplicates-{number:05d}", checked.rejected)
    searches = read_partition(place.scratch / "searches", number)
    users = read_partition(place.scratch / "users", number)
    items = pq.read_table(place.scratch / "items.parquet")
    log = sort_user_log(
        checked.accepted,
        SEARCHES.empty_table() if searches is None else searches,
        # Columns without rows, so that every shard has those of the whole log.
        pq.read_table(place.out / "users.parquet").slice(0, 0) if users is None else users,
        ItemDurations.of_table(items),
        place.settings,
    )
    place.shard(number).mkdir(parents=True)
    log.save_tables(place.shard(number))
    log.save_arrays(place.log(number))
    training, validation, test = np.bincount(log.split, minlength=3).tolist()
    return SortedShard(
        counts=count_shard(log, place.settings, place.cuts),
        num_users=len(log.user_ids),
        num_events=len(log.events),
        num_watches=int(log.is_watch.sum()),
        num_duplicates=len(checked.rejected),
        split_sizes=(training, validation, test),
    )


@dataclass(frozen=True)
class BuiltShard:
    """What `build_shard` made.

    Args:
        num_labels: Labels of the candidate net.
        num_impressions: Examples of the ranking net.
    """

    num_labels: int
    num_impressions: int


def build_shard(place: Workplace, number: int) -> BuiltShard:
    """Write a shard's timelines, histories and examples; counters as of a moment come after."""
    settings, directory = place.settings, place.shard(number)
    catalogue = Catalogue.load(place.out / "catalogue")
    vocabularies = {
        folder.name: Vocabulary.load(folder) for folder in (place.out / "vocabularies").iterdir()
    }
    log = UserLog.load(directory, place.log(number))
    timelines = log_timelines(log, catalogue)
    histories = watch_histories(timelines, catalogue.num_trained)
    nets = (settings.candidates, settings.split)
    candidates = candidate_examples(
        log, timelines, histories, vocabularies, catalogue.num_trained, nets
    )
    ranking, chosen = ranking_examples(log, timelines, vocabularies, settings.ranking)
    write_record(timelines, directory / "timelines")
    write_record(histories, directory / "histories")
    write_record(candidates, directory / "candidates")
    write_record(ranking, directory / "ranking")
    asked_at = request_moments(log, timelines)
    _count_items(place, number, timelines, (chosen, asked_at), catalogue)
    return BuiltShard(len(candidates.item), len(chosen))


def total_counters_part(place: Workplace, part: int) -> None:
    """Fill the counters of every ranking example whose item or channel is in one part."""
    shards = range(place.settings.data.shards)
    for kind in ("item", "channel"):
        spilled = [place.spilled(kind, number) for number in shards]
        targets = [place.shard(number) / "ranking" / f"{kind}_counters.npy" for number in shards]
        total_part(spilled, targets, part)


def _count_items(
    place: Workplace,
    number: int,
    timelines: Timelines,
    queries: tuple[np.ndarray, np.ndarray],
    catalogue: Catalogue,
) -> None:
    """Total the counters as of `data_until`, and spill what those of the examples need."""
    counted = CountedEvents(
        timelines.moment,
        timelines.outcome_moment,
        counted_values(
            timelines.is_impression, timelines.watch_ms, timelines.is_watch, timelines.clicked
        ),
    )
    item = timelines.item.astype(np.int64)
    totals = total_counters(counted, item, len(catalogue), place.cuts.data_until)
    save_arrays(place.scratch / "totals", {f"{number:05d}": totals})
    if place.settings.ranking.enabled:
        num_parts = place.settings.data.shards
        channel = channel_numbers(catalogue.table)[item]
        spill(place.spilled("item", number), counted, item, *queries, num_parts)
        spill(place.spilled("channel", number), counted, channel, *queries, num_parts)
