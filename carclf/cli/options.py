"""Options shared by several commands."""

from contextlib import suppress
from pathlib import Path
from typing import Annotated, Optional

import typer

from carclf.cli.completion import complete_override, complete_recipe, complete_run
from carclf.config import RECIPES, apply_recipe_file, load_policy
from carclf.errors import ConfigError


def validate_parent_folder(path: Path | None) -> Path | None:
    """Return the path; raise typer.BadParameter if its parent folder does not exist."""
    if path and not path.parent.is_dir():
        raise typer.BadParameter(f"The folder {path.parent} does not exist.")
    return path


def read_recipe(context: typer.Context, recipe: str) -> str:
    """Return the recipe, or the base of a file with the settings of one."""
    return recipe if context.resilient_parsing else apply_recipe_file(recipe)


def allow_recipe(context: typer.Context, recipe: str) -> str:
    """Return the recipe. A default that the policy does not allow is replaced as in the trigger form."""
    recipe = read_recipe(context, recipe)
    source = context.get_parameter_source("recipe")
    if source is None or source.name != "COMMANDLINE":
        with suppress(ConfigError):  # a policy that cannot be read: load_settings raises it
            return load_policy().default_recipe(recipe)
    return recipe


StoreOption = Annotated[
    str, typer.Option("--store", envvar="CARCLF_STORE", help="The store: a folder or s3://bucket/prefix.")
]
RUN_HELP = "The id of a run, its first characters, last (the newest run) or champion."
RunOption = Annotated[str, typer.Option("--run", help=RUN_HELP, autocompletion=complete_run)]
NewRunOption = Annotated[str, typer.Option("--run", help="The id of the run: letters, digits and ._-")]
ResultOption = Annotated[
    Optional[Path],
    typer.Option("--result", help="Write the result as JSON to this file.", callback=validate_parent_folder),
]
RECIPE_HELP = f"The recipe: {', '.join(RECIPES)}, or a file such as mine.toml."
RecipeOption = Annotated[
    str, typer.Option("--recipe", envvar="CARCLF_RECIPE", help=RECIPE_HELP, callback=read_recipe,
                      autocompletion=complete_recipe)
]
# For commands that start no run.
ReadingRecipeOption = Annotated[
    str, typer.Option("--recipe", envvar="CARCLF_RECIPE", help=RECIPE_HELP, callback=allow_recipe,
                      autocompletion=complete_recipe)
]
SetOption = Annotated[
    list[str], typer.Option("--set", help="Change a setting, as in fine_tune.epochs=3. Can be repeated.",
                            autocompletion=complete_override)
]
ModelOption = Annotated[
    str, typer.Option("--model", help="The key of the model in the store; by default the champion, refitted if it was.")
]
ModelRunOption = Annotated[
    str, typer.Option("--run", help="Use the model of this run instead of --model.", autocompletion=complete_run)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
