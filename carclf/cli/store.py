"""``carclf store``: commands for a whole store."""

from typing import Annotated

import typer

from carclf.cli.options import StoreOption
from carclf.errors import ConfigError, DataError
from carclf.services.storage import copy_store, init_store, open_store, require_store

store_app = typer.Typer(no_args_is_help=True, help="Create or copy a store.")


@store_app.command()
def init(store_url: StoreOption = "store") -> None:
    """Create a store, once. Other commands fail without it, for example if its disk is not mounted."""
    print(f"The store {init_store(store_url).url} exists.")


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
    print(f"{source.url} to {target.url}: copied {result.num_files} files, {result.num_bytes / 1e6:.1f} MB; skipped "
          f"{result.num_skipped}")
    if result.damaged:
        raise DataError(f"{len(result.damaged)} files are damaged and were not copied: {', '.join(result.damaged)}. "
                        "Restore them from an earlier backup, or rebuild them with --set force=true.")
