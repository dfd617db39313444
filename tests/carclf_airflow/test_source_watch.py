"""When a changed source starts a run: rules, and random histories of arrivals, restarts, outages and wrong clocks."""

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carclf_airflow.source_watch import (
    MIN_SECONDS,
    Observation,
    WatchRules,
    WatchState,
    announce,
    is_due,
    observe,
)

POLL = 60.0
DAY = 86400.0
RULES = WatchRules(quiet_seconds=1800, min_seconds_between_runs=3600)
RUN_SECONDS = 600.0
MIN_SECONDS_BETWEEN = RULES.min_seconds_between_runs
# Long enough for the quiet period, to repeat a lost announcement, to run, and to be allowed to run again.
PAUSE = RULES.quiet_seconds + 2 * MIN_SECONDS_BETWEEN + RUN_SECONDS + 20 * POLL
NEW = Observation("b", changed=True, num_new_images=5, has_active_run=False)


def observed(now: float = 0.0, state: WatchState | None = None, **changes: Any) -> tuple[WatchState, Observation]:
    observation = replace(NEW, **changes)
    return observe(state or WatchState(), observation, now), observation


def test_a_change_is_announced_after_the_quiet_period() -> None:
    state, observation = observed(now=1e6)
    assert not is_due(state, observation, RULES, 1e6 + 1799)
    assert is_due(state, observation, RULES, 1e6 + 1800)


@pytest.mark.parametrize(
    "changes",
    [{"changed": False}, {"has_active_run": True}, {"num_new_images": 2}],
)
def test_nothing_is_announced_without_a_reason_or_during_a_run(changes: dict[str, Any]) -> None:
    state, observation = observed(**changes)
    assert not is_due(state, observation, replace(RULES, min_new_images=3), 1e6)


def test_an_unknown_number_of_new_images_is_enough() -> None:
    state, observation = observed(num_new_images=None)
    assert is_due(state, observation, replace(RULES, min_new_images=3), 1e6)


@pytest.mark.parametrize(("rule", "seconds"), [(3600, 3600), (0, MIN_SECONDS)])
def test_announcements_have_a_minimum_distance(rule: float, seconds: float) -> None:
    """Until then, an announcement may be lost, its run not be created yet, or its download have failed."""
    rules = replace(RULES, min_seconds_between_runs=rule)
    state, observation = observed(10_100, announce(observed()[0], "token", 10_000))
    assert not is_due(state, observation, rules, 10_000 + seconds - 1)
    assert is_due(state, observation, rules, 10_000 + seconds)


def test_times_in_the_future_become_now() -> None:
    state, observation = observed(now=1e9)
    state = observe(announce(state, "token", 1e9), observation, 1000)
    assert (state.seen.since, state.announcement.time) == (1000, 1000)


@pytest.mark.parametrize("damaged", [None, {}, "x", 3, {"other": 1}, [1]])
def test_a_damaged_state_is_as_new(damaged: Any) -> None:
    assert WatchState.parse(damaged, damaged) == WatchState()


def test_a_state_is_stored_and_read() -> None:
    state = announce(observed(5)[0], "token", 9)
    assert WatchState.parse(*state.to_dicts()) == state


@dataclass
class World:
    """A source, its watchers, Airflow and its clock, in steps of a poll. Contents are the number of images."""

    num_watchers: int
    run_seconds: float = RUN_SECONDS
    images: int = 0
    read: int = 0
    time: float = 1e6
    clock_error: float = 0.0
    is_available: bool = True
    is_watched: bool = True
    loses_event: bool = False
    download_fails: bool = False
    run_ends: float = 0.0
    events: list[float] = field(default_factory=list)
    runs: list[int] = field(default_factory=list)
    stored: WatchState = field(default_factory=WatchState)

    def wait(self, seconds: float) -> None:
        end = self.time + seconds
        while self.time < end:
            self.time += POLL
            self._run()
            if self.is_available and self.is_watched:
                self._poll()

    def _run(self) -> None:
        """Start one run for all events; its download reads the source, or fails."""
        if self.events and self.time >= self.run_ends:
            self.events.clear()
            self.runs.append(self.images)
            self.run_ends = self.time + self.run_seconds
            if not self.download_fails:
                self.read = self.images

    def _poll(self) -> None:
        """All watchers decide at the same time; the last one that writes its announcement sends the event."""
        now = self.time + self.clock_error
        observation = Observation(str(self.images), self.images != self.read, self.images - self.read,
                                  self.time < self.run_ends)
        state = observe(self.stored, observation, now)
        for number in range(self.num_watchers):
            self.stored = state
            if is_due(state, observation, RULES, now):
                self.stored = announce(state, f"{self.time} {number}", now)
        if self.stored.announcement != state.announcement:
            if not self.loses_event:
                self.events.append(self.time)
            self.loses_event = False


def _disturb(world: World, kind: str, seconds: float) -> None:
    """Let images arrive within one of these: a while, an outage, a restart of the triggerer, or a jump of the clock."""
    if kind == "outage":
        world.is_available = False
    if kind == "restart":
        world.is_watched = False
    world.wait(seconds if kind in ("outage", "restart") else min(seconds, RULES.quiet_seconds - 2 * POLL))
    if kind == "clock":
        world.clock_error += seconds - DAY / 2
    world.images += 1
    world.is_available = world.is_watched = True


STEPS = st.lists(
    st.tuples(st.sampled_from(["wait", "outage", "restart", "clock"]), st.floats(0, DAY)), min_size=1, max_size=6)
BATCHES = st.lists(st.tuples(STEPS, st.booleans(), st.booleans()), min_size=1, max_size=4)


@settings(max_examples=200)
@given(batches=BATCHES, num_watchers=st.sampled_from([1, 2]))
def test_each_batch_starts_one_run(batches: list[tuple[Any, bool, bool]], num_watchers: int) -> None:
    """A batch is a series of arrivals, each before the quiet period after the one before has ended.

    Its event may be lost with the triggerer, its download may fail, outages and restarts last up to a day, and the
    clock may be wrong by half a day in both directions. A download that fails is repeated until it has read the batch.
    """
    world = World(num_watchers)
    for steps, loses_event, download_fails in batches:
        world.loses_event = loses_event
        world.download_fails = download_fails
        world.images += 1
        num_runs = len(world.runs)
        for kind, seconds in steps:
            _disturb(world, kind, seconds)
        assert len(world.runs) == num_runs
        world.wait(PAUSE)
        if download_fails:
            world.download_fails = False
            num_runs = len(world.runs)
            world.wait(PAUSE)
        assert world.runs[num_runs:] == [world.images]
        assert world.read == world.images


def test_a_failing_download_is_repeated_at_the_minimum_distance() -> None:
    world = World(num_watchers=2, images=1, download_fails=True)
    world.wait(DAY)
    num_runs = len(world.runs)
    assert DAY / MIN_SECONDS_BETWEEN - 3 <= num_runs <= DAY / MIN_SECONDS_BETWEEN
    world.download_fails = False
    world.wait(DAY)
    assert (world.runs[num_runs:], world.read) == ([1], 1)


def test_ten_thousand_files_within_an_hour_start_one_run() -> None:
    world = World(num_watchers=2)
    for _ in range(60):
        world.images += 167
        world.wait(POLL)
    assert world.runs == []
    world.wait(DAY)
    assert world.runs == [60 * 167]


def test_images_that_arrive_during_a_long_run_start_one_run_after_it() -> None:
    world = World(num_watchers=1, run_seconds=DAY, images=1)
    world.wait(RULES.quiet_seconds + 5 * POLL)
    assert world.runs == [1]
    world.images = 2
    world.wait(DAY / 2)
    assert (world.runs, world.events) == ([1], [])
    world.wait(DAY)
    assert world.runs == [1, 2]
