"""What a comparison asks of a log: held-out events that neither bundle has learned from.

The log and the bundles may be of different configurations and vocabularies, so nothing here is in
rows of a bundle: users, items and contexts keep their external ids, as in a call of the server.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipelines.held_out import held_out_watches
from pipelines.paths import RunPaths
from recsys.artefacts import MANIFEST, hash_json
from recsys.bundle import Bundle
from recsys.data.examples import TEST
from recsys.data.prepared import Prepared, Shard, load_prepared
from recsys.data.user_states import user_states
from recsys.errors import ArtefactError, ComparisonError
from recsys.requests import Request

PLACES = ("country", "device", "surface")
"""Columns by which requests are told apart, where events or users have them."""


@dataclass(frozen=True)
class AskedEvents:
    """Q events of a log, as requests made just before them.

    Args:
        prepared: The log.
        events: For each shard, int64 positions in its timelines, ascending.
    """

    prepared: Prepared
    events: list[np.ndarray]

    def __len__(self) -> int:
        """Return the number of events."""
        return sum(len(part) for part in self.events)

    @cached_property
    def users(self) -> np.ndarray:
        """Number of the user, counted over shards: int64 [Q]."""
        first, parts = 0, []
        for shard, own in self._parts():
            parts.append(_owners(shard, own) + first)
            first += len(shard.user_ids)
        return np.concatenate(parts)

    @cached_property
    def is_new_user(self) -> np.ndarray:
        """Whether nobody had seen the user when the log's own bundle was made: bool [Q]."""
        parts = []
        for shard, own in self._parts():
            first = shard.timelines.offsets[_owners(shard, own)]
            parts.append(shard.timelines.moment[first] >= self.prepared.data_until)
        return np.concatenate(parts)

    def user_id(self, position: int) -> str:
        """Return the external id of the user of one event."""
        number = int(self.users[position])
        for shard in self.prepared.shards:
            if number < len(shard.user_ids):
                return shard.user_ids[number].decode()
            number -= len(shard.user_ids)
        raise IndexError(position)

    def column(self, name: str) -> np.ndarray:
        """Return an array of the timelines at the events: `item`, `moment`, `watch_ms`, ...."""
        return np.concatenate([getattr(shard.timelines, name)[own] for shard, own in self._parts()])

    def values(self, name: str) -> list[str | float | None]:
        """Return a column of the events, or else of the users, as the log spells it: [Q]."""
        found: list[str | float | None] = []
        for shard, own in self._parts():
            table, users = shard.events([name]), shard.users()
            of_event = _taken(table, name, own)
            of_user = _taken(users, name, _owners(shard, own))
            found += [u if e is None else e for e, u in zip(of_event, of_user, strict=True)]
        return found

    def requests(
        self, columns: Sequence[str], *, num_items: int, seen_removed: bool
    ) -> Iterator[Request]:
        """Yield the questions, in the order of the arrays.

        Args:
            columns: Of the events, to be told as context where the log has them.
            num_items: How many items are asked for.
            seen_removed: Whether watched items are left out of the answer.
        """
        for shard, own in self._parts():
            table = shard.events(list(columns))
            contexts = {name: _taken(table, name, own) for name in table.column_names}
            moments, has_time = shard.timelines.moment[own], shard.timelines.has_time[own]
            owners = _owners(shard, own)
            for number, state in enumerate(user_states(self.prepared, shard)):
                start, end = np.searchsorted(owners, [number, number + 1])
                for place in range(start, end):
                    told = {name: values[place] for name, values in contexts.items()}
                    yield Request(
                        user=state,
                        now=int(moments[place]),
                        has_time=bool(has_time[place]),
                        context={n: value for n, value in told.items() if value is not None},
                        num_items=num_items,
                        seen_removed=seen_removed,
                    )

    def _parts(self) -> Iterator[tuple[Shard, np.ndarray]]:
        return zip(self.prepared.shards, self.events, strict=True)


def open_log(path: Path) -> Prepared:
    """Open a prepared directory, or that of a run.

    Raises:
        ArtefactError: It is neither.
    """
    below = RunPaths(path).prepared
    if not (path / MANIFEST).is_file() and (below / MANIFEST).is_file():
        return load_prepared(below)
    if not (path / MANIFEST).is_file():
        raise ArtefactError(
            f"--log {path}: expected a prepared directory or that of a run, found neither "
            f"{path / MANIFEST} nor {below / MANIFEST}; make one with `recsys prepare`"
        )
    return load_prepared(path)


def asked_watches(
    prepared: Prepared, bundles: Sequence[Bundle], *, max_watches: int, rng: np.random.Generator
) -> tuple[AskedEvents, np.ndarray, int]:
    """Choose the held-out watches that no bundle has learned from.

    Args:
        prepared: The log.
        bundles: Those that are compared.
        max_watches: A random sample where there are more.
        rng: Of the sample.

    Returns:
        The Q watches; int32 [Q], how many watches of the user were known before each; and how many
        held-out watches were left out because a bundle may have learned from them.

    Raises:
        ComparisonError: None is left.
    """
    whole = held_out_watches(prepared, TEST, max_watches=None, rng=rng)
    fresh = [
        labels[_is_fresh(prepared, bundles, moment=own.moment[labels], timed=own.has_time[labels])]
        for own, labels in zip(
            (shard.candidates for shard in prepared.shards), whole.labels, strict=True
        )
    ]
    total = sum(len(labels) for labels in fresh)
    if total == 0:
        raise ComparisonError(_nothing_fresh(prepared, bundles, len(whole)))
    if total > max_watches:
        kept = np.zeros(total, bool)
        kept[rng.choice(total, max_watches, replace=False)] = True
        ends = np.cumsum([len(labels) for labels in fresh])[:-1]
        parts = zip(fresh, np.split(kept, ends), strict=True)
        fresh = [labels[mask] for labels, mask in parts]
    pairs = list(zip(prepared.shards, fresh, strict=True))
    events = [_events_of_labels(shard, labels) for shard, labels in pairs]
    known = np.concatenate([shard.candidates.known_watches[labels] for shard, labels in pairs])
    return AskedEvents(prepared, events), known, len(whole) - total


def asked_impressions(
    prepared: Prepared, bundles: Sequence[Bundle], *, max_impressions: int, rng: np.random.Generator
) -> AskedEvents:
    """Choose impressions of known watch time since the bundles were made, of whole users.

    Args:
        prepared: The log.
        bundles: Those that are compared.
        max_impressions: Users are drawn until there are so many.
        rng: Of the draw.
    """
    since = max([prepared.data_until, *(bundle.data_until for bundle in bundles)])
    chosen = [_impressions(shard, since) for shard in prepared.shards]
    asked = AskedEvents(prepared, chosen)
    if len(asked) <= max_impressions:
        return asked
    distinct, counts = np.unique(asked.users, return_counts=True)
    order = rng.permutation(len(distinct))
    number = int(np.searchsorted(counts[order].cumsum(), max_impressions)) + 1
    kept = np.isin(asked.users, distinct[order[:number]])
    ends = np.cumsum([len(own) for own in chosen])[:-1]
    parts = zip(chosen, np.split(kept, ends), strict=True)
    return AskedEvents(prepared, [own[mask] for own, mask in parts])


def _is_fresh(
    prepared: Prepared, bundles: Sequence[Bundle], *, moment: np.ndarray, timed: np.ndarray
) -> np.ndarray:
    """Return which held-out watches no bundle has learned from: bool [n]."""
    fresh = np.ones(len(moment), bool)
    for bundle in bundles:
        if not _has_same_split(prepared, bundle):
            fresh &= timed & (moment >= bundle.data_until)
    return fresh


def _has_same_split(prepared: Prepared, bundle: Bundle) -> bool:
    """Return whether a bundle held out by user what this log does, whenever it happened."""
    settings = bundle.settings.model_dump(mode="json", exclude={"data": {"processes"}})
    manifest = prepared.manifest
    return (
        bundle.settings.split.kind == "leave_one_out"
        and hash_json(settings["split"]) == manifest["split_hash"]
        and hash_json(settings["data"]) == manifest["data_hash"]
    )


def _nothing_fresh(prepared: Prepared, bundles: Sequence[Bundle], num_held_out: int) -> str:
    spelled = {bundle.bundle_id[:12]: _moment(bundle.data_until) for bundle in bundles}
    known = ", ".join(f"bundle {name} until {moment}" for name, moment in spelled.items())
    last = _moment(prepared.manifest["statistics"]["last_moment"])
    return (
        f"expected held-out watches that neither bundle has learned from, got none: {known}; the "
        f"log ends {last} and holds out {num_held_out:,} watches; give a log that goes on after "
        f"both bundles were made, or bundles made of its training part"
    )


def _moment(moment: int) -> str:
    if abs(moment) < 10**12:  # a sequence number: twelve days after 1970 are no log
        return f"event {moment}"
    return f"{np.datetime64(moment, 'us').astype('datetime64[s]')}Z"


def _events_of_labels(shard: Shard, labels: np.ndarray) -> np.ndarray:
    """Return where labels stand in the timelines: int64 [n], ascending."""
    examples, timelines = shard.candidates, shard.timelines
    moments, items = np.asarray(timelines.moment), np.asarray(timelines.item)
    found = np.empty(len(labels), np.int64)
    for place, label in enumerate(labels.tolist()):
        start, end = timelines.offsets[examples.user[label] : examples.user[label] + 2]
        event = start + np.searchsorted(moments[start:end], examples.moment[label])
        while not (items[event] == examples.item[label] and timelines.is_watch[event]):
            event += 1
        found[place] = event
    return found


def _impressions(shard: Shard, since: int) -> np.ndarray:
    timelines = shard.timelines
    known = timelines.is_impression & (timelines.watch_ms >= 0) & (timelines.item >= 0)
    return np.flatnonzero(known & timelines.has_time & (timelines.moment >= since))


def _owners(shard: Shard, events: np.ndarray) -> np.ndarray:
    return np.searchsorted(shard.timelines.offsets, events, side="right") - 1


def _taken(table: pa.Table, name: str, rows: np.ndarray) -> list[str | float | None]:
    if name not in table.column_names:
        return [None] * len(rows)
    return table[name].take(pa.array(rows)).to_pylist()
