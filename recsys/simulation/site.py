"""A site in the synthetic world that one recommender answers for, lived through day by day.

Users ask as the arrivals say, the arm answers from their states, the hidden truth draws what they
do with the page, and that becomes part of their states: what is shown changes what is shown next.
All chance is drawn by day and turn, not by arm: two arms live in the same world but for themselves.

Letters: R pages, P places of a page.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from recsys.core.random import stream
from recsys.data.sources.behaviour import DEVICES, SURFACES, Pages, shown_us
from recsys.data.sources.synthetic import COUNTRIES, LANGUAGES, queries
from recsys.data.sources.world import PAGE_SIZE, World
from recsys.requests import Recommendation, Request
from recsys.simulation.arrivals import NOTHING, Arrivals
from recsys.state import UNKNOWN, UserEvents, UserState

BATCH = 128
"""Requests that are answered together."""


class Arm(Protocol):
    """What answers, such as `recsys.recommender.Recommender`."""

    def recommend(self, requests: Sequence[Request]) -> Sequence[Recommendation]:
        """Answer a batch of requests."""

    def count_events(self, events: UserEvents) -> None:
        """Take note of what any users did."""


@dataclass(frozen=True)
class Day:
    """What happened on one day.

    Args:
        rows: int64 [R], which of the arrivals.
        pages: What they were shown, and did.
        expected_ms: float64 [R, P], what the truth expected them to watch; 0 without an item.
        requests: As they were put to the arm.
        num_degraded: Answers without a stage.
    """

    rows: np.ndarray
    pages: Pages
    expected_ms: np.ndarray
    requests: list[Request]
    num_degraded: int


class Site:
    """One arm's users and what they live through.

    Args:
        world: The hidden truth.
        arrivals: Who comes when.
        states: What is known of each user at the beginning, by number.
        seed: Of what users do.
        label: Column that says what a positive watch is, "liked" or "clicked", if one does.
    """

    def __init__(
        self,
        world: World,
        arrivals: Arrivals,
        states: dict[int, UserState],
        *,
        seed: int,
        label: str | None = None,
    ) -> None:
        self._world, self._arrivals, self._seed = world, arrivals, seed
        self._states = dict(states)
        self._label = label
        self._item_ids = np.array([f"i{item}".encode() for item in range(world.num_items)])
        self._queries = queries(arrivals.finds)

    def state(self, user: int) -> UserState:
        """Return what is known of a user now."""
        return self._states[user]

    def live(self, day: int, arm: Arm) -> Day:
        """Let a day pass; what its users did is counted by the arm when it is over.

        Args:
            day: 0, 1, ..., one after the other.
            arm: Answers that day.
        """
        turns = [
            self._turn(rows, arm, stream(self._seed, "outcomes", day, number))
            for number, rows in enumerate(self._arrivals.turns(day))
        ]
        done = _joined(turns) if turns else _nothing()
        arm.count_events(self._events_of_finds(self._with_find(done.rows)))
        arm.count_events(self._events(done.pages))
        return done

    def expected_ms(self, rows: np.ndarray, answers: Sequence[Recommendation]) -> np.ndarray:
        """Return what the truth expects of other answers to pages asked for: float64 [R, P].

        Args:
            rows: int64 [R], which of the arrivals.
            answers: [R].
        """
        items, _ = self._shown(answers, self._arrivals.time_us[rows])
        expected = self._world.expected_watch_ms(*self._impressions(rows, items))
        return np.where(items >= 0, expected.reshape(items.shape), 0.0)

    def _turn(self, rows: np.ndarray, arm: Arm, rng: np.random.Generator) -> Day:
        """Answer one page each of different users, and let them do what they do."""
        self._remember_finds(self._with_find(rows))
        requests = [self._request(row) for row in rows.tolist()]
        answers = [
            answer
            for start in range(0, len(requests), BATCH)
            for answer in arm.recommend(requests[start : start + BATCH])
        ]
        items, propensity = self._shown(answers, self._arrivals.time_us[rows])
        pages, expected_ms = self._outcomes(rows, items, propensity, rng)
        self._remember(self._arrivals.user[rows], pages)
        num_degraded = sum(bool(answer.degraded_stages) for answer in answers)
        return Day(rows, pages, expected_ms, requests, num_degraded)

    def _with_find(self, rows: np.ndarray) -> np.ndarray:
        return rows[self._arrivals.find[rows] != NOTHING]

    def _request(self, row: int) -> Request:
        arrivals, sessions = self._arrivals, self._arrivals.sessions
        session = int(arrivals.session[row])
        user = int(sessions.user[session])
        country = int(self._world.user_country[user])
        return Request(
            user=self._states[user],
            now=int(arrivals.time_us[row]),
            context={
                "surface": SURFACES[arrivals.surface[row]],
                "device": DEVICES[sessions.device[session]],
                "country": COUNTRIES[country],
                "language": LANGUAGES[country],
                "logged_in": float(sessions.is_logged_in[session]),
            },
            num_items=PAGE_SIZE,
            request_id=f"{self._seed}-{row}",
        )

    def _shown(
        self, answers: Sequence[Recommendation], time_us: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the items of answers and their propensities: [R, P] each.

        What is not uploaded yet cannot be shown, whoever recommends it: its place stays empty.
        """
        items = np.full((len(answers), PAGE_SIZE), NOTHING, np.int64)
        propensity = np.full(items.shape, np.nan)
        for row, answer in enumerate(answers):
            shown = answer.items[:PAGE_SIZE]
            items[row, : len(shown)] = [int(item.item_id[1:]) for item in shown]
            if shown and shown[0].propensity is not None:
                propensity[row, : len(shown)] = [item.propensity for item in shown]
        is_there = (items >= 0) & (self._world.item_upload_us[items] <= time_us[:, None])
        return np.where(is_there, items, NOTHING), np.where(is_there, propensity, np.nan)

    def _outcomes(
        self, rows: np.ndarray, items: np.ndarray, propensity: np.ndarray, rng: np.random.Generator
    ) -> tuple[Pages, np.ndarray]:
        arrivals, is_shown = self._arrivals, items >= 0
        impressions = self._impressions(rows, items)
        outcomes = self._world.draw_outcomes(*impressions, rng=rng)
        clicked, watch_ms, liked = (
            np.where(is_shown, values.reshape(items.shape), 0) for values in outcomes
        )
        expected_ms = self._world.expected_watch_ms(*impressions).reshape(items.shape)
        pages = Pages(
            session=arrivals.session[rows],
            request=arrivals.request[rows],
            surface=arrivals.surface[rows],
            time_us=arrivals.time_us[rows],
            items=items,
            propensity=propensity,
            clicked=clicked.astype(bool),
            watch_ms=watch_ms.astype(np.int64),
            liked=liked.astype(bool),
        )
        return pages, np.where(is_shown, expected_ms, 0.0)

    def _impressions(
        self, rows: np.ndarray, items: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return user, item, position and moment of every place: int64 [R P] each.

        Empty places are of item 0: they draw as well, so that both arms use the same chance.
        """
        return (
            np.repeat(self._arrivals.user[rows], PAGE_SIZE),
            np.maximum(items, 0).ravel(),
            np.tile(np.arange(PAGE_SIZE), len(rows)),
            shown_us(self._arrivals.time_us[rows], PAGE_SIZE).ravel(),
        )

    def _remember(self, users: np.ndarray, pages: Pages) -> None:
        """Put what happened on pages, one a user, into the users' states."""
        events = self._events(pages)
        ends = (pages.items >= 0).sum(axis=1).cumsum().tolist()
        for user, start, end in zip(users.tolist(), [0, *ends], ends, strict=False):
            self._add(user, events.take(slice(start, end)))

    def _remember_finds(self, rows: np.ndarray) -> None:
        """Put searches, and what they led to, into the users' states."""
        events = self._events_of_finds(rows)
        for place, row in enumerate(rows.tolist()):
            find, user = int(self._arrivals.find[row]), int(self._arrivals.user[row])
            state = self._states[user]
            search = (self._queries[find], int(self._arrivals.finds.search_us[find]))
            searches = sorted([*state.searches, search], key=lambda one: one[1])
            self._states[user] = replace(state, searches=tuple(searches))
            self._add(user, events.take(slice(place, place + 1)))

    def _add(self, user: int, events: UserEvents) -> None:
        state = self._states[user]
        known = state.events.arrays()
        together = UserEvents(
            **{
                name: np.concatenate([known[name], values])
                for name, values in events.arrays().items()
            }
        )
        # Sessions of one user may overlap.
        if len(known["moment"]) and len(events) and events.moment[0] < known["moment"][-1]:
            together = together.take(np.argsort(together.moment, kind="stable"))
        self._states[user] = replace(state, events=together)

    def _events(self, pages: Pages) -> UserEvents:
        """Return the impressions of pages, page after page."""
        shown = pages.items >= 0
        labels = {"liked": pages.liked, "clicked": pages.clicked}.get(self._label or "")
        return self._new_events(
            pages.items[shown],
            pages.shown_us[shown],
            pages.watch_ms[shown],
            clicked=pages.clicked[shown],
            label=None if labels is None else labels[shown],
            is_impression=True,
        )

    def _events_of_finds(self, rows: np.ndarray) -> UserEvents:
        """Return the watches that searches led to, just before some of the pages."""
        finds, chosen = self._arrivals.finds, self._arrivals.find[rows]
        everyone = np.ones(len(chosen), bool)
        labels = {"liked": finds.liked[chosen], "clicked": everyone}.get(self._label or "")
        return self._new_events(
            finds.item[chosen],
            finds.found_us[chosen],
            finds.watch_ms[chosen],
            clicked=everyone,
            label=labels,
            is_impression=False,
        )

    def _new_events(
        self,
        items: np.ndarray,
        moment: np.ndarray,
        watch_ms: np.ndarray,
        *,
        clicked: np.ndarray,
        label: np.ndarray | None,
        is_impression: bool,
    ) -> UserEvents:
        unlabelled = np.full(len(items), UNKNOWN)
        return UserEvents(
            item_id=self._item_ids[items],
            event_id=np.zeros(len(items), "S1"),
            moment=moment,
            outcome_moment=moment + watch_ms * 1000,
            has_time=np.ones(len(items), bool),
            watch_ms=watch_ms,
            clicked=clicked.astype(np.int8),
            watch_label=(unlabelled if label is None else label).astype(np.int8),
            is_impression=np.full(len(items), is_impression),
        )


def _joined(turns: Sequence[Day]) -> Day:
    columns = {
        name: np.concatenate([getattr(turn.pages, name) for turn in turns])
        for name in vars(turns[0].pages)
    }
    return Day(
        rows=np.concatenate([turn.rows for turn in turns]),
        pages=Pages(**columns),
        expected_ms=np.concatenate([turn.expected_ms for turn in turns]),
        requests=[request for turn in turns for request in turn.requests],
        num_degraded=sum(turn.num_degraded for turn in turns),
    )


def _nothing() -> Day:
    """Return a day on which nobody came."""
    none, page = np.zeros(0, np.int64), np.zeros((0, PAGE_SIZE), np.int64)
    flags, numbers = page.astype(bool), page.astype(np.float64)
    pages = Pages(none, none, none, none, page, numbers, flags, page, flags)
    return Day(none, pages, numbers, [], 0)
