"""All that a run's page needs, as plain data: from the run's record and the artifacts that it names.

What is damaged or gone is told among ``problems`` in place of being raised.
"""

from typing import Any

from carclf.champion import read_state
from carclf.errors import ConfigError
from carclf.live import live_points
from carclf.records import read_record
from carclf.run_index import row_of
from carclf.services.storage import Store

Facts = dict[str, Any]


def facts(store: Store, run_id: str) -> Facts:
    """What is known of a run; JSON-able, without NaN. ConfigError where there is no such run.

    ``run``, ``store`` (its url), ``row`` (as in ``run_index.rows``, without ``champion``), ``champion``: whether it
    made the present champion.
    ``header``: ``recipe``, ``created``, ``versions`` (by package), ``machine``, ``gpu`` (name or ""), ``members`` (run
    ids, of an ensemble), ``settings``: those unlike the recipe's, as ``name``, ``value``, ``default``.
    ``stages``: all nine in their order, each ``name``, ``state`` (done, skipped, running, silent, waiting, failed,
    open), ``text`` (error, reason to wait or to skip), ``since``, ``seconds`` (None: unknown), ``reused``, ``summary``,
    ``figures``, ``folder``, ``key`` ("" where it has not ended), ``files`` (``name``, ``key`` in the store,
    ``num_bytes``), ``command``: what repeats it.
    ``live``: as of ``live.live_points``.
    ``curves``: by train_head and fine_tune, the rows of ``history.csv``: ``epoch``, ``loss``, ``accuracy``,
    ``val_loss``, ``val_accuracy``, and of fine_tune ``learning_rate``, ``images_per_second``, ``data_wait_fraction``,
    ``seconds``; [] where there are none yet.
    ``data``: None, or ``figures`` of the dataset and of the split and the audit, ``classes`` (``label``, ``num``),
    ``findings`` (``severity``, ``path``, ``text``), ``problems`` (``path``, ``problem``), ``reports`` (``name``,
    ``key``).
    ``evaluation``: None, or ``accuracy``, ``interval`` (low, high), ``num_images``, ``num_correct``, ``temperature``,
    ``calibration_error``, ``uncalibrated_error``, ``milliseconds``, ``model_mb``, ``class_names``, ``confusion``
    (rows: labels), ``classes`` (``label``, ``num``, ``recall``, ``low``, ``high``, ``named``, the weakest first),
    ``reliability`` (``low``, ``high``, ``num``, ``confidence``, ``accuracy``), ``slices`` (``by``, ``value``, ``num``,
    ``accuracy``, ...).
    ``errors``: the most confident: ``number``, ``id``, ``path``, ``label``, ``predicted``, ``probability``, and
    ``picture`` and ``overlay`` as data: URIs ("" where there is none).
    ``decision``: None, or ``decision``, ``reason``, ``threshold``, ``champion`` (a model's key or None), ``rules``
    (``rule``, ``value``, ``limit``, ``passed``, ``text``), ``paired`` (None, or what ``evaluation.comparison`` tells).
    ``problems``: ``part`` and ``text`` of each part that could not be read.
    """
    record = read_record(store, run_id)
    if record is None:
        raise ConfigError(f"There is no run {run_id!r} in {store.url}.")
    return {
        "run": run_id, "store": store.url, "row": row_of(record), "champion": False,
        "header": {"recipe": record.get("recipe", ""), "created": record.get("created", ""),
                   "versions": record.get("versions", {}), "machine": record.get("machine", ""), "gpu": "",
                   "members": record.get("members", []), "settings": []},
        "stages": [], "live": live_points(store, run_id), "curves": {"train_head": [], "fine_tune": []},
        "data": None, "evaluation": None, "errors": [], "decision": None, "problems": [],
    }


def champion_facts(store: Store) -> Facts | None:
    """The champion and the threshold; None in a store where nobody was judged yet. DataError where it is damaged.

    ``champion``: None, or ``model``, ``run``, ``val_accuracy``, ``low``, ``high``, ``public_score``, ``rank``,
    ``since`` (ISO 8601), ``by``. ``threshold``, and ``thresholds``: ``time`` and ``threshold`` of each change, the
    oldest first, for a line over time. ``events``: the history as it is, the newest first.
    """
    return None if read_state(store) is None else {"champion": None, "threshold": 0.0, "thresholds": [], "events": []}


def picture(store: Store, run_id: str, number: int, kind: str) -> bytes | None:
    """A JPEG of an error of the run's evaluation: ``kind`` picture or overlay; None where there is none.

    ConfigError for what is no run id or no kind.
    """
    return None
