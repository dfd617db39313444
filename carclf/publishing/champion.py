"""The champion that is published, and proof that it still is the champion."""

from dataclasses import dataclass

from carclf.champion import read_state
from carclf.champion_history import refit_of_model
from carclf.errors import ServiceError, StageSkipped
from carclf.services.storage import Store


@dataclass(frozen=True)
class ChampionName:
    """The keys of the measured model and of the model that predicts for it: the refitted one, or the same."""

    measured: str
    model: str


def read_champion(store: Store) -> ChampionName:
    """Return the store's champion; raise StageSkipped if there is none."""
    state = read_state(store)
    if state is None or (champion := state["champion"]) is None:
        raise StageSkipped(f"there is no champion in {store.url}")
    measured = str(champion["model"])
    return ChampionName(measured, refit_of_model(state, measured) or measured)


def require_champion(store: Store, champion: ChampionName) -> None:
    """Raise ServiceError if the champion has changed: the model must not be published any more."""
    if read_champion(store) != champion:
        raise ServiceError(f"The champion changed while the model {champion.model} was being published. Publish again.")
