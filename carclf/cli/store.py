"""``carclf store``: what is done with a store as a whole."""

from typing import Annotated

import typer

from carclf.cli.options import StoreOption
from carclf.errors import ConfigError, DataError
from carclf.services.storage import copy_store, open_store

store_app = typer.Typer(no_args_is_help=True, help="The store as a whole.")


@store_app.callback()
def _store() -> None:
    """The store as a whole: copied for a backup, and back."""


@store_app.command("copy")
def _copy(
    to: Annotated[str, typer.Option("--to", help="Another folder or s3://bucket/prefix.")],
    store: StoreOption = "store",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Also what is there already: it may be damaged.")] = False,
) -> None:
    """Copy a store into another, also while runs go on; what is there already is not copied again."""
    source, target = open_store(store), open_store(to)
    if source.url == target.url:
        raise ConfigError("A store is not copied into itself. Give another --to.")
    copied = copy_store(source, target, overwrite=overwrite)
    print(f"{source.url} to {target.url}: {copied.num_files} files, {copied.num_bytes / 1e6:.1f} MB; {copied.num_skipped} "
          "were there already")
    if copied.damaged:
        raise DataError(f"{len(copied.damaged)} files are damaged, and were not copied: {', '.join(copied.damaged)}. "
                        "Restore them from an earlier backup, or make them anew with force.")
