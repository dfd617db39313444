"""Shell completion of runs, recipes and settings. Install it with ``carclf --install-completion``."""

from contextlib import suppress
from threading import Thread

import typer

from carclf.config import RECIPES, iter_settings
from carclf.errors import CarclfError
from carclf.runs.index import list_run_ids
from carclf.runs.run_names import CHAMPION, LAST
from carclf.services.storage import open_store

MAX_SECONDS = 1.0  # for the store: a shell waits


def complete_run(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the names of runs in the store of the command line; without the ids if the store does not respond."""
    run_ids: list[str] = []

    def list_ids() -> None:
        with suppress(CarclfError, OSError):  # a shell has no place for an error
            run_ids.extend(list_run_ids(open_store(ctx.params.get("store_url") or "store")))

    thread = Thread(target=list_ids, daemon=True)
    thread.start()
    thread.join(MAX_SECONDS)
    return [name for name in [LAST, CHAMPION, *run_ids] if name.startswith(incomplete)]


def complete_recipe(incomplete: str) -> list[str]:
    """Return the recipes that start with the text."""
    return [name for name in RECIPES if name.startswith(incomplete)]


def complete_setting(incomplete: str) -> list[tuple[str, str]]:
    """Return the settings that start with the text, with their descriptions."""
    return [(name, str(field.description)) for name, field in iter_settings() if name.startswith(incomplete)]


def complete_override(incomplete: str) -> list[tuple[str, str]]:
    """Return the settings that start with the text, each with an equals sign."""
    return [(f"{name}=", description) for name, description in complete_setting(incomplete)]
