"""``carclf store``: commands for a whole store."""

from collections.abc import Callable
from functools import partial
from typing import Annotated

import typer

from carclf.artifacts import remove_leftovers
from carclf.cli.options import StoreOption
from carclf.errors import ConfigError, DataError
from carclf.experiments.plan import find_plan
from carclf.experiments.racing import read_rung
from carclf.formatting import format_count
from carclf.runs.repair import find_damage, repair
from carclf.services.storage import Store, copy_store, init_store, open_store, require_store

store_app = typer.Typer(no_args_is_help=True, help="Create, check, repair, clean and copy a store.")


@store_app.command()
def init(store_url: StoreOption = "store") -> None:
    """Create a store, once. Other commands fail without it, for example if its disk is not mounted."""
    print(f"The store {init_store(store_url).url} is ready.")


@store_app.command()
def copy(
    to: Annotated[str, typer.Option("--to", help="The target: another folder or s3://bucket/prefix.")],
    store_url: StoreOption = "store",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Also copy files that exist in the target, where they may be damaged.")
    ] = False,
) -> None:
    """Copy a store to another store, without files that it has already. Runs may continue meanwhile."""
    source = require_store(store_url)
    target = open_store(to)
    if source.url == target.url:
        raise ConfigError(f"--store and --to are both {source.url}. Give another --to.")
    result = copy_store(source, target, overwrite=overwrite)
    print(f"{source.url} to {target.url}: copied {format_count(result.num_files, 'file')}, "
          f"{result.num_bytes / 1e6:.1f} MB; skipped {result.num_skipped}")
    if result.damaged:
        raise DataError(f"Damaged and not copied: {format_count(len(result.damaged), 'file')}, "
                        f"{', '.join(result.damaged)}. Restore them from an earlier backup, or rebuild them: carclf "
                        "store check --repair.")


@store_app.command()
def check(
    store_url: StoreOption = "store",
    rebuild: Annotated[
        bool, typer.Option("--repair", help="Rebuild damaged artifacts by the stage that created them.")
    ] = False,
) -> None:
    """Verify the artifacts and records of a store, and print what is damaged and whether it was rebuilt."""
    store = require_store(store_url)
    left = []
    num_repaired = 0
    # A repair may mark more artifacts, which are found later.
    for damage in find_damage(store, _experiment_readers(store) | _prediction_readers(store)):
        result, text = repair(store, damage) if rebuild else ("damaged", damage.problem)
        print(f"{result:<7}  {damage.path}{text and f': {text}'}", flush=True)
        num_repaired += result != "damaged"
        left += [damage.path] if result == "damaged" else []
    if left:
        raise DataError(f"Damaged: {format_count(len(left), 'object')} of {store.url}, {', '.join(left)}. Rebuild them "
                        "with --repair; restore from a backup what cannot be rebuilt.")
    print(f"{store.url}: rebuilt or marked {format_count(num_repaired, 'artifact')}, nothing is damaged")


def _experiment_readers(store: Store) -> dict[str, Callable[[], object]]:
    from carclf.experiments.results import find_outcome

    readers: dict[str, Callable[[], object]] = {}
    for key in store.list_keys("experiments/"):
        _, experiment, *names = key.split("/")
        if names[-1:] == ["plan.json"]:
            readers[key] = partial(find_plan, experiment, store)
        elif names[-1:] == ["outcome.json"]:
            readers[key] = partial(find_outcome, experiment, store)
        elif names[:1] == ["rungs"]:
            readers[key] = partial(read_rung, key, experiment, store)
    return readers


def _prediction_readers(store: Store) -> dict[str, Callable[[], object]]:
    from carclf.batch_prediction.shard_files import list_tables, read_table

    return {key: partial(read_table, store, key) for key in list_tables(store)}


@store_app.command()
def gc(store_url: StoreOption = "store") -> None:
    """Remove what killed processes left in the store, in the cache and in TMPDIR. Runs may continue meanwhile."""
    store = require_store(store_url)
    print(f"{store.url}: removed {format_count(remove_leftovers(store), 'leftover')} of killed processes")
