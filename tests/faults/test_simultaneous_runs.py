"""Two runs that end at the same moment, in processes of their own, 100 times: one champion, and nothing is lost."""

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

RULES = ["not_worse", *["off"] * 4]  # to compare takes a while: one round of five


def rule(turn: int) -> str:
    return RULES[turn % len(RULES)]


def promote_again_and_again(urls: Sequence[str], name: str, num_rounds: int, start: Barrier) -> None:
    """In each round a new candidate of this process, judged at the moment when the other process's is."""
    for store in map(open_store, urls):
        for turn in range(num_rounds):
            own = build_candidate(store, f"{name} {turn}", [turn % 12])
            start.wait(120)
            decision, _ = own.promote(store, load_config("demo", {"gate.champion_rule": rule(turn)}), run_id=f"{name}-{turn}")
            assert decision.metrics["decision"] == "promoted"


def check(store: Store, num_rounds: int) -> None:
    state = read_state(store)
    assert state is not None
    history = state["history"]
    assert sorted(event["run"] for event in history) == sorted(
        f"{name}-{turn}" for name in ("left", "right") for turn in range(num_rounds))
    turns = [int(event["run"].partition("-")[2]) for event in history]
    assert turns == [place // 2 for place in range(2 * num_rounds)]
    assert state["champion"] == history[-1] and state["threshold"] == 0.6
    # each that was compared was compared with the very champion that it followed
    for place, event in enumerate(history):
        if rule(turns[place]) == "not_worse":
            decision = Decision.find(store, event["decision"])
            assert decision is not None
            compared = json.loads(decision.path(store, "decision.json").read_text())["champion"]
            assert compared == (history[place - 1]["model"] if place else None)


@pytest.mark.parametrize("num_rounds", [5, pytest.param(100, marks=pytest.mark.acceptance)])
def test_two_runs_that_end_at_once_leave_one_champion_and_both_in_the_history(
    tmp_path: Path, aws: None, num_rounds: int
) -> None:
    boto3.client("s3").create_bucket(Bucket="simultaneous")
    urls = [str(tmp_path / "store"), "s3://simultaneous/store"]
    spawn = multiprocessing.get_context("spawn")  # as runs are: nothing is shared but the store
    start = spawn.Barrier(2)
    runs = [spawn.Process(target=promote_again_and_again, args=(urls, name, num_rounds, start))
            for name in ("left", "right")]
    for run in runs:
        run.start()
    for run in runs:
        run.join(300)
    assert [run.exitcode for run in runs] == [0, 0]
    for url in urls:
        check(open_store(url), num_rounds)
