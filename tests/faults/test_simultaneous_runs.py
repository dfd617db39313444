"""Two runs that end at the same moment, in processes of their own: one champion, and no event is lost."""

import json
import multiprocessing
from collections.abc import Sequence
from multiprocessing.synchronize import Barrier
from pathlib import Path

import boto3
import pytest
from gate_candidates import build_candidate

from carclf.artifacts import Decision
from carclf.champion import read_state
from carclf.config import load_config
from carclf.services.storage import Store, open_store

PROCESSES = ("left", "right")
RULES = ["not_worse", *["off"] * 4]  # a comparison is slow, so only one round in five has it


def champion_rule(number: int) -> str:
    return RULES[number % len(RULES)]


def promote_in_rounds(urls: Sequence[str], name: str, num_rounds: int, start: Barrier) -> None:
    """In each round, promote a new candidate at the same time as the other process."""
    for store in map(open_store, urls):
        for number in range(num_rounds):
            candidate = build_candidate(store, f"{name} {number}", [number % 12])
            config = load_config("demo", {"gate.champion_rule": champion_rule(number)})
            start.wait(120)
            decision, _ = candidate.promote(store, config, run_id=f"{name}-{number}")
            assert decision.metrics["decision"] == "promoted"


def check_history(store: Store, num_rounds: int) -> None:
    state = read_state(store)
    assert state is not None
    history = state["history"]
    expected = sorted(f"{name}-{number}" for name in PROCESSES for number in range(num_rounds))
    assert sorted(event["run"] for event in history) == expected
    numbers = [int(event["run"].partition("-")[2]) for event in history]
    assert numbers == [position // 2 for position in range(2 * num_rounds)]
    assert state["champion"] == history[-1] and state["threshold"] == 0.6
    # A compared candidate must have been compared with the champion that it replaced.
    for position, event in enumerate(history):
        if champion_rule(numbers[position]) == "not_worse":
            decision = Decision.require(store, event["decision"])
            champion = json.loads(decision.path(store, "decision.json").read_text())["champion"]
            assert champion == (history[position - 1]["model"] if position else None)


@pytest.mark.parametrize("num_rounds", [5, pytest.param(100, marks=pytest.mark.acceptance)])
def test_two_simultaneous_promotions_leave_one_champion_and_both_events(
    tmp_path: Path, aws: None, num_rounds: int
) -> None:
    boto3.client("s3").create_bucket(Bucket="simultaneous")
    urls = [str(tmp_path / "store"), "s3://simultaneous/store"]
    spawn = multiprocessing.get_context("spawn")  # as with real runs, the processes share only the store
    start = spawn.Barrier(2)
    runs = [spawn.Process(target=promote_in_rounds, args=(urls, name, num_rounds, start)) for name in PROCESSES]
    for run in runs:
        run.start()
    for run in runs:
        run.join(300)
    assert [run.exitcode for run in runs] == [0, 0]
    for url in urls:
        check_history(open_store(url), num_rounds)
