"""The page on which a person decides about a candidate: compared with the champion of now, not of the request."""

from functools import partial
from typing import Any

from carclf.config import Config, Policy, may_approve
from carclf.dashboard.champion_facts import Champion, champion_facts
from carclf.dashboard.comparison_facts import RunComparison
from carclf.dashboard.run_comparison import compare_runs
from carclf.dashboard.run_facts import DecisionFacts, read_decision
from carclf.dashboard.run_reader import Facts, RunReader, open_run
from carclf.runs.index import Row
from carclf.services.storage import Store, format_command

MAX_IMAGES = 12  # of those that only the candidate, or only the champion, classifies correctly
MAX_LISTED = 20  # classes in a table


class ClassCount(Facts):
    """The number of usable images of a class in the data of the champion and of the candidate."""

    label: str
    champion: int
    candidate: int


class ApprovalFacts(Facts):
    """What a person needs for the decision about a run's candidate.

    If nothing is to be decided, ``is_waiting`` is False, and only the decision is known. It is True for an expired
    request, which can still be approved in a terminal. ``comparison`` is None without a champion, or if both cannot be
    compared, for the reason in ``problem``. ``forbidden`` is why this person may not approve, and ``command`` responds
    in a terminal.
    """

    run: str
    row: Row
    is_waiting: bool
    decision: DecisionFacts | None
    is_expired: bool = False
    champion: Champion | None = None
    comparison: RunComparison | None = None
    problem: str = ""
    class_counts: tuple[ClassCount, ...] = ()  # of the classes with different numbers, the largest change first
    approval: tuple[str, ...] = ()  # what happens then, in sentences
    rejection: tuple[str, ...] = ()
    policy: str = ""
    forbidden: str = ""
    command: str = ""


def approval_facts(store: Store, run_id: str, policy: Policy, approver: str) -> ApprovalFacts:
    """Return the facts of a run's candidate for a person.

    ConfigError if the run does not exist, DataError if the record is damaged.
    """
    reader = open_run(store, run_id)
    state = reader.attempt("promote").get("state")
    is_waiting = state in ("waiting", "expired")
    decision = reader.try_section("decision", lambda: read_decision(reader), None)
    facts = ApprovalFacts(run=run_id, row=reader.index_row(), is_waiting=is_waiting, decision=decision,
                          is_expired=state == "expired")
    if not is_waiting:
        return facts
    gate = champion_facts(store)
    champion = gate.champion if gate else None
    compared: dict[str, Any] = {}
    if champion:
        compared = reader.try_section("comparison", partial(_compare, reader, champion.run), compared)
    config = Config.model_validate(reader.record["config"])
    is_allowed = may_approve(policy, str(reader.record.get("started_by", "")), approver)
    return facts.model_copy(update={
        "champion": champion, **compared, "problem": " ".join(problem.text for problem in reader.problems),
        "approval": tuple(_after_approval(config, champion)), "rejection": tuple(_after_rejection(policy, champion)),
        "policy": _describe(policy, config), "command": format_command(
            store, f"promote --run {run_id} --approved-by NAME --note NOTE"),
        "forbidden": "" if is_allowed else (
            f"You started this run, and the policy {policy.file} does not let people approve their own runs."),
    })


def _compare(reader: RunReader, champion_run: str) -> dict[str, Any]:
    """Return the comparison with the champion's run, and the differences of their data."""
    comparison = compare_runs(reader.store, champion_run, reader.run_id, max_per_kind=MAX_IMAGES)
    before, after = (_class_counts(run) for run in (open_run(reader.store, champion_run), reader))
    counts = [ClassCount(label=name, champion=before.get(name, 0), candidate=after.get(name, 0))
              for name in before | after if before.get(name) != after.get(name)]
    counts.sort(key=lambda count: -abs(count.candidate - count.champion))
    return {"comparison": comparison, "class_counts": tuple(counts)}


def _class_counts(reader: RunReader) -> dict[str, int]:
    return dict((reader.read_json("validate", "report.json") or {}).get("class_counts", {}))


def _after_approval(config: Config, champion: Champion | None) -> list[str]:
    sentences = ["The candidate becomes the champion."]
    if champion:
        sentences = ["The candidate is compared once more with the champion of that moment. If it still passes the "
                     "gate, it becomes the champion."]
    if config.fine_tune.refit:
        sentences.append("It is then trained on all labeled images, and the refitted model predicts for it.")
    if config.submit.enabled and config.competition:
        return [*sentences, "Its predictions are submitted to Kaggle, which counts against the limit of the day."]
    return [*sentences, "Nothing is submitted."]


def _after_rejection(policy: Policy, champion: Champion | None) -> list[str]:
    remains = f"The model of {champion.run or 'an unknown run'} stays the champion" if champion else (
        "There is still no champion")
    later = "a reason (carclf champion promote --override)" if policy.approval.override else "another policy"
    return [f"{remains}, and nothing is submitted.", f"The rejected model can only be promoted with {later}."]


def _describe(policy: Policy, config: Config) -> str:
    """Return the reason for the approval in a sentence."""
    if policy.limits.get("gate.approval") == "required":
        return f"The policy {policy.file} requires a person's approval of every champion."
    return f"The settings of the run require a person's approval (gate.approval = {config.gate.approval})."
