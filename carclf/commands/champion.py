"""``carclf champion``: who it is, who it was, and what a candidate must reach."""

from typing import Annotated

import typer

from carclf.commands.options import StoreOption
from carclf.services.storage import open_store
from carclf.stages.promote import set_threshold

champion_app = typer.Typer(help="The champion, its history and the threshold.", no_args_is_help=True)


@champion_app.command("set-threshold")
def _set_threshold(
    threshold: Annotated[float, typer.Argument(min=0, max=1, help="The accuracy that a candidate must reach.")],
    store: StoreOption = "store",
) -> None:
    """Change the stored accuracy threshold of the gate."""
    set_threshold(open_store(store), threshold)
