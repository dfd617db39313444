"""Find damaged artifacts, and rebuild them under their keys by the stage that created them."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeVar

from pydantic import ValidationError

from carclf.artifacts import (
    KINDS,
    Archive,
    Artifact,
    Classifier,
    Dataset,
    Decision,
    Evaluation,
    Model,
    Prediction,
    StageContext,
    is_marked,
    mark_damaged,
    rebuilding,
    verify_artifact,
)
from carclf.champion import read_state
from carclf.champion_history import promotion_of_model, promotions
from carclf.config import Config
from carclf.dataset.fixes import read_fixes
from carclf.errors import CarclfError, ConfigError, DamagedArtifactError, DataError
from carclf.progress import Meter, log
from carclf.runs.index import list_run_ids
from carclf.runs.record import Record, read_record, record_key
from carclf.services.kaggle.submitting import Attempt
from carclf.services.storage import Store, VersionedObject, format_command, parse_object
from carclf.stages.chain import NO_OPTIONS, STAGES, StageCall, StageSpec
from carclf.stages.split import rebuild_split

T = TypeVar("T")
Producer = tuple[Record, StageSpec]
# Rebuilding a decision could promote a model, and rebuilding a submission could send it.
REBUILT_STAGES = ("download", "validate", "split", "train_head", "fine_tune", "evaluate", "refit")
# Artifacts that the next stage that needs one builds again, unless a champion refers to them.
INTERNAL_FOLDERS = ("inspections", "features", "audits", "drifts", "soft_targets", "evaluations", "predictions",
                    "decisions", "scores")
NO_PATHS: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Damage:
    """A damaged object of the store, as the path of an artifact (models/ab12) or a key (champion.json)."""

    path: str
    problem: str

    @property
    def is_artifact(self) -> bool:
        """True for an artifact, False for a file with state."""
        folder, _, key = self.path.partition("/")
        return folder in KINDS and "/" not in key


def with_repair(
    store: Store, action: Callable[[], T], active: frozenset[str] = NO_PATHS, *, can_train: bool = True
) -> T:
    """Return the result of the action; rebuild each damaged artifact that stops it and repeat the action.

    Raise DataError with the artifact to restore if it cannot be rebuilt, or if it is a model and ``can_train`` is off.
    ``active`` are artifacts that are being rebuilt.
    """
    while True:
        try:
            return action()
        except DamagedArtifactError as error:
            if error.path in active:
                raise DataError(f"{error.problem} Rebuilding it did not help. {_restore(error.path)}") from error
            if issubclass(KINDS[error.path.partition("/")[0]], Classifier) and not can_train:
                raise
            active |= {error.path}
            rebuild(store, error, active, can_train=can_train)


def rebuild(
    store: Store, damage: DamagedArtifactError, active: frozenset[str] = NO_PATHS, *, can_train: bool = True
) -> bool:
    """Build a damaged artifact again under its key; return False if it was only marked for the stage that needs it.

    Raise DataError with the artifact to restore if its inputs are gone or have changed, or if it is a champion and
    differs. Its manifest is replaced only if that succeeds.
    """
    folder, key = damage.path.split("/")
    kind = KINDS[folder]
    producer = _find_producer(store, kind, key)
    if producer is None:
        _require_internal(store, damage)
        log.warning("store: marked a damaged artifact path=%s reason=%s", damage.path, damage.problem)
        mark_damaged(store, kind, key)
        return False
    log.warning("store: rebuilding a damaged artifact path=%s reason=%s", damage.path, damage.problem)
    original = store.read(kind.manifest_path(key))
    files = _stored_files(store, kind, key)
    active |= {damage.path}
    try:
        with_repair(store, lambda: _repeat_stage(store, producer, key), active, can_train=can_train)
    except ConfigError as error:
        raise ConfigError(f"{damage.path} is damaged and must be rebuilt by {producer[1].name}: {error}") from error
    try:
        with_repair(store, lambda: verify_artifact(store, kind.require(store, key)), active, can_train=can_train)
        if issubclass(kind, Classifier) and not _is_same_model(model := kind.require(store, key), files):
            _accept_other_weights(store, model)
    except CarclfError:
        _write_back(store, kind, key, original)
        raise
    return True


def _require_internal(store: Store, damage: DamagedArtifactError) -> None:
    """Raise DataError unless the next stage that needs the artifact builds it again."""
    folder = damage.path.partition("/")[0]
    if folder == "submissions":
        raise DataError(f"{damage.problem} Run submit again, which does not send the same predictions twice: "
                        f"{format_command(store, 'submit --run RUN')}")
    if folder not in INTERNAL_FOLDERS or damage.path in _champion_references(store):
        raise DataError(f"{damage.problem} It cannot be rebuilt by a stage of any run in the store. "
                        f"{_restore(damage.path)}")


def _write_back(store: Store, kind: type[Artifact], key: str, original: VersionedObject | None) -> None:
    """Restore the manifest: its other files are intact and may be restored one by one."""
    current = store.read(kind.manifest_path(key))
    if original is None:
        mark_damaged(store, kind, key)
    elif current and current.version != original.version:
        store.write_if(kind.manifest_path(key), original.data, current.version)


def _repeat_stage(store: Store, producer: Producer, key: str) -> None:
    """Run the stage with the settings and the inputs of the run, without recording anything."""
    record, spec = producer
    try:
        config = Config.model_validate(record["config"])
    except ValidationError as error:
        raise DataError(f"The run {record['run']!r} has settings that this version of carclf does not have. Restore "
                        f"{spec.artifact.folder}/{key}/ from a backup.") from error
    context = StageContext(store, config, record["run"] if config.force else "")
    artifacts = {name: STAGES[name].artifact.require(store, record["stages"][name]["key"]) for name in spec.inputs}
    folder = spec.artifact.folder
    with rebuilding(f"{folder}/{key}", f"{folder}/{record['stages'][spec.name]['key']}"):
        if spec.name != "split":
            spec.run(StageCall(artifacts, context, NO_OPTIONS, record["run"]))
        elif isinstance(dataset := artifacts["validate"], Dataset):
            rebuild_split(key, dataset, context)


def _find_producer(store: Store, kind: type[Artifact], key: str) -> Producer | None:
    """Return the record of a run that names the artifact, and the stage."""
    specs = [STAGES[stage] for stage in REBUILT_STAGES if STAGES[stage].artifact is kind]
    keys = {key} | _archives_with(store, key) if kind is Archive else {key}
    for run_id in list_run_ids(store) if specs else ():
        try:
            record = read_record(store, run_id)
        except DataError:
            continue
        for spec in specs:
            if record and _can_repeat(record, spec) and record["stages"][spec.name].get("key") in keys:
                return record, spec
    return None


def _can_repeat(record: Record, spec: StageSpec) -> bool:
    """Return whether the record has the stage and its inputs. An ensemble has the data of its members."""
    return "members" not in record and {spec.name, *spec.inputs} <= record["stages"].keys()


def _archives_with(store: Store, key: str) -> set[str]:
    """Return the keys of the archives that add extra data to this archive."""
    archives = [Archive.require(store, name) for name in Archive.list_keys(store) if _is_valid(store, Archive, name)]
    return {archive.key for archive in archives if archive.inputs.get("archive") == key}


def _is_valid(store: Store, kind: type[Artifact], key: str) -> bool:
    try:
        return kind.find(store, key) is not None
    except DamagedArtifactError:
        return False


def _stored_files(store: Store, kind: type[Artifact], key: str) -> set[str]:
    """Return the keys of an artifact's files, as far as its manifest and the store still list them."""
    listed = {file.key for file in kind.require(store, key).files.values()} if _is_valid(store, kind, key) else set()
    return listed | set(store.list_keys(f"{kind.folder}/{key}/"))


def _is_same_model(model: Classifier, files: set[str]) -> bool:
    """Return whether a model makes the same predictions as the one whose files were in the store before.

    model.keras contains the date. The reference logits depend on the weights alone, and keys contain content hashes.
    """
    reference = model.files.get("reference_logits.parquet") or model.files["model.keras"]
    return reference.key in files


def _accept_other_weights(store: Store, model: Classifier) -> None:
    """Mark what was measured with the earlier weights as damaged; raise DataError if the model was a champion."""
    path = f"{model.folder}/{model.key}"
    if promotion_of_model(read_state(store) or {"history": []}, model.key):
        raise DataError(f"{path} is damaged. It was trained again, but its weights differ from the champion's, as on "
                        f"a GPU or on another machine. {_restore(path)}")
    for kind in (Evaluation, Decision, Prediction):
        for key in kind.list_keys(store):
            if _is_valid(store, kind, key) and kind.require(store, key).inputs.get("model") == model.key:
                mark_damaged(store, kind, key)


def _restore(path: str) -> str:
    return f"Restore {path}/ from a backup."


def find_damage(store: Store, readers: Mapping[str, Callable[[], object]] | None = None) -> Iterator[Damage]:
    """Yield the artifacts and records that are damaged or missing, inputs before what is made from them.

    Every file of every artifact is downloaded and compared with its SHA-256. ``readers`` are functions that read other
    files, by key.
    """
    for key, read_file in (readers or {}).items():
        try:
            read_file()
        except DataError as error:
            yield Damage(key, str(error))
    references: set[str] = set()
    for key, read in _state_readers(store).items():
        try:
            references |= read()
        except DataError as error:
            yield Damage(key, str(error))
    artifacts = [(kind, key) for kind in KINDS.values() for key in _list_artifacts(store, kind, references)]
    with Meter("check") as meter:
        for number, (kind, key) in enumerate(artifacts, 1):
            yield from _check_artifact(store, kind, key)
            meter(number, len(artifacts), f"{kind.folder}/{key}")


def _list_artifacts(store: Store, kind: type[Artifact], references: set[str]) -> list[str]:
    """Return the keys of the artifacts of a kind: those with a manifest, and those that others refer to."""
    named = {path.partition("/")[2] for path in references if path.startswith(f"{kind.folder}/")}
    return sorted(key for key in named.union(kind.list_keys(store)) if not _waits_for_stage(store, kind, key))


def _waits_for_stage(store: Store, kind: type[Artifact], key: str) -> bool:
    """Return whether the next stage that needs this artifact builds it again."""
    if kind.folder not in INTERNAL_FOLDERS or not is_marked(store, kind, key):
        return False
    try:
        return f"{kind.folder}/{key}" not in _champion_references(store)
    except DataError:  # champion.json is damaged, which is reported
        return True


def _check_artifact(store: Store, kind: type[Artifact], key: str) -> Iterator[Damage]:
    try:
        verify_artifact(store, kind.require(store, key))
    except DamagedArtifactError as error:
        yield Damage(f"{kind.folder}/{key}", error.problem)


def _state_readers(store: Store) -> dict[str, Callable[[], set[str]]]:
    """Return a function for each file with state, by key. It returns the paths of the artifacts that the file names."""
    return {
        "champion.json": partial(_champion_references, store),
        **{record_key(run_id): partial(_run_references, store, run_id) for run_id in list_run_ids(store)},
        "label_fixes.csv": partial(_label_fixes_references, store),
        **{key: partial(_claim_references, store, key) for key in store.list_keys("submissions/claims/")},
    }


def _champion_references(store: Store) -> set[str]:
    state = read_state(store) or {"history": []}
    references = {f"evaluations/{event['holdout_evaluation']}" for event in state["history"]
                  if event["action"] == "measured"}
    references |= {f"refits/{event['refit']}" for event in state["history"] if event["action"] == "refitted"}
    for event in promotions(state):
        references |= {f"{name}s/{event[name]}" for name in ("model", "decision", "evaluation") if name in event}
        if _is_valid(store, Model, event["model"]):
            references.add(f"splits/{Model.require(store, event['model']).input('split')}")
    return references


def _run_references(store: Store, run_id: str) -> set[str]:
    record = read_record(store, run_id)
    keys = {stage: result.get("key") for stage, result in record["stages"].items()} if record else {}
    return {f"{STAGES[stage].artifact.folder}/{key}" for stage, key in keys.items() if key and stage in STAGES}


def _label_fixes_references(store: Store) -> set[str]:
    read_fixes(store)
    return set()


def _claim_references(store: Store, key: str) -> set[str]:
    if (claim := store.read(key)) and claim.data != b"null":
        fix = "Run submit again, which names the way to fix it."
        parse_object(Attempt, claim.data, f"{key} in {store.url}", fix)
    return set()


def repair(store: Store, damage: Damage) -> tuple[Literal["rebuilt", "marked", "damaged"], str]:
    """Rebuild a damaged artifact, or mark it; return the result, and what must be done about it."""
    if not damage.is_artifact:
        return "damaged", damage.problem
    try:
        if rebuild(store, DamagedArtifactError(damage.path, damage.problem)):
            return "rebuilt", ""
    except CarclfError as error:
        return "damaged", str(error)
    return "marked", "the next stage that needs it builds it again"
