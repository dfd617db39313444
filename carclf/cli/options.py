"""Options that several commands have."""

from pathlib import Path
from typing import Annotated, Optional

import typer

from carclf.config import RECIPES


def validate_parent_folder(path: Path | None) -> Path | None:
    """The path itself, where something can be written to it."""
    if path and not path.parent.is_dir():
        raise typer.BadParameter(f"There is no folder {path.parent}.")
    return path


StoreOption = Annotated[str, typer.Option("--store", envvar="CARCLF_STORE", help="A folder or s3://bucket/prefix.")]
RunOption = Annotated[str, typer.Option("--run", help="The run's id: letters, digits and ._-")]
ResultOption = Annotated[
    Optional[Path],
    typer.Option("--result", help="Write the result there, as JSON.", callback=validate_parent_folder),
]
RecipeOption = Annotated[
    str, typer.Option("--recipe", envvar="CARCLF_RECIPE", help=f"One of {', '.join(RECIPES)}.")
]
SetOption = Annotated[list[str], typer.Option("--set", help="Change a setting: fine_tune.epochs=3. May be repeated.")]
