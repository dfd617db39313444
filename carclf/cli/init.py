"""``carclf init``: write a project file, so that no command needs --store and --set."""

from pathlib import Path
from typing import Annotated

import typer

from carclf.cli.completion import complete_recipe
from carclf.config import PROJECT_FILE, RECIPES, write_project_file


def init(
    source: Annotated[
        str, typer.Argument(help="The images: a competition's slug, kaggle://owner/dataset, s3://bucket/prefix, or a "
                                 "path such as ./photos.")
    ] = "",
    store: Annotated[str, typer.Option("--store", help="The store: a folder or s3://bucket/prefix.")] = "store",
    recipe: Annotated[
        str, typer.Option("--recipe", help=f"The recipe: {', '.join(RECIPES)}.", autocompletion=complete_recipe)
    ] = "gpu",
) -> None:
    """Write a commented carclf.toml, which every command reads in this folder and below."""
    path = Path.cwd() / PROJECT_FILE
    write_project_file(path, store=store, source=source, recipe=recipe)
    print(f"{path} is written. Edit it, then: carclf store init && carclf doctor && carclf run")
