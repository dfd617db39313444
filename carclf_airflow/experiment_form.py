"""The trigger form of an experiment: the fields of ``carclf.experiments.plan_form.Form``."""

from airflow.sdk import Param

from carclf.experiments.ablations import ABLATIONS
from carclf.experiments.plan_form import MAX_TRIALS
from carclf_airflow.retrain_form import checked_at_trigger, form_policy, limited, recipe_param

DEFAULT_RECIPES = ["frozen", "no-augmentation", "single-view"]
RECIPE_SYNTAX = f"One per line: NAME [OTHER…] key=value…, ensemble [NAME…], or one of: {', '.join(ABLATIONS)}."


def experiment_params() -> dict[str, Param]:
    """Return the form's fields by section."""
    return checked_at_trigger(_recipe_params() | _design_params() | _racing_params() | _search_params())


def _recipe_params() -> dict[str, Param]:
    return {
        "recipe": recipe_param(form_policy(), title="Baseline", section="Recipes",
                               description="The recipe that all others are compared with."),
        "settings": Param("", type=["string", "null"], title="Settings for all", section="Recipes",
                          description="key=value, separated by spaces, such as fine_tune.epochs=3"),
        "recipes": Param(DEFAULT_RECIPES, type="array", items={"type": "string"}, title="Recipes", section="Recipes",
                         description=RECIPE_SYNTAX),
    }


def _design_params() -> dict[str, Param]:
    return {
        "seeds": Param("0,1", type="string", pattern=r"^ *[0-9]+( *, *[0-9]+)* *\Z", title="Seeds", section="Design",
                       description="Each recipe is trained once with each seed."),
        "folds": Param(0, type="integer", **limited(minimum=0, maximum=20), title="Folds", section="Design",
                       description="Folds of a cross-validation; 0 uses the validation subset."),
        "promote": Param(False, type="boolean", title="Promote the winner", section="Design",
                         description="Take the winner's best run through the gate. If approval is required, "
                                     "car_promote asks a person."),
    }


def _racing_params() -> dict[str, Param]:
    return {
        "rungs": Param("", type=["string", "null"], pattern=r"^( *[0-9]+( *, *[0-9]+){0,2} *)?\Z", title="Rungs",
                       section="Racing",
                       description="Up to three epochs after which the worst recipes stop, such as 2,5."),
        "keep_fraction": Param(0.5, type="number", exclusiveMinimum=0, exclusiveMaximum=1, title="Fraction kept",
                               section="Racing", description="Fraction of the recipes that continue after a rung."),
        "budget_minutes": Param(0, type="number", **limited(minimum=0), title="Budget in minutes", section="Racing",
                                description="Total training time after which no training starts; 0 sets no budget."),
    }


def _search_params() -> dict[str, Param]:
    return {
        "search": Param([], type="array", items={"type": "string"}, title="Ranges", section="Search",
                        description="One per line: key=low..high or key=one|another. Optuna samples from the ranges."),
        "num_trials": Param(8, type="integer", **limited(minimum=1, maximum=MAX_TRIALS),
                            title="Proposed recipes", section="Search",
                            description="Number of recipes that Optuna proposes."),
        "study": Param("", type=["string", "null"], title="Study", section="Search",
                       description="An earlier study to continue; empty starts a new one."),
    }
