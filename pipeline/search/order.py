"""In which order trials begin, and what goes on beside them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from ray import tune
from ray.tune.search import Searcher

from pipeline.records import Hyperparameters, IngredientRecord


class Beside(Protocol):
    """What goes on beside the trials of a sweep, and may end it before its last one; called in the driver."""

    @property
    def reason(self) -> str | None:
        """Why no trial begins any more; None while they do."""
        ...

    def look(self, rows: Sequence[IngredientRecord]) -> bool:
        """Called several times a second with the trials that have ended; returns whether a trial may begin now."""
        ...

    def decide(
        self, rows: Sequence[IngredientRecord], under_way: Sequence[Hyperparameters], upcoming: Hyperparameters
    ) -> None:
        """Called before each trial, while there is no ``reason``: is there one now?"""
        ...


class SearchOrder(Searcher):  # type: ignore[misc]
    """Hands Tune the trials ``pending``, by index, in search order, with what ``draw`` says that each begins with.

    ``rows`` tells which have ended, ``room`` how many may be under way. Nothing but Tune's own thread comes here.
    """

    # Tune asks as soon as fewer trials wait for room than it lets wait; None makes it ask again soon, FINISHED never.

    def __init__(
        self,
        draw: Callable[[int, Sequence[IngredientRecord]], Hyperparameters],
        pending: Sequence[int],
        rows: Callable[[], Sequence[IngredientRecord]],
        beside: Beside | None,
        room: Callable[[], int],
    ) -> None:
        super().__init__()
        self._draw, self._left, self._rows, self._beside, self._room = draw, deque(pending), rows, beside, room
        self._under_way: dict[str, Hyperparameters] = {}  # by Tune's id

    def suggest(self, trial_id: str) -> Any:
        """The next trial, for Tune."""
        if not self._left:
            return Searcher.FINISHED
        rows = self._rows()
        if self._beside is not None and not self._beside.look(rows):
            return None
        if len(self._under_way) >= self._room():
            return None
        upcoming = self._draw(self._left[0], rows)
        if self._beside is not None and self._beside.reason is None:
            self._beside.decide(rows, list(self._under_way.values()), upcoming)
            if self._beside.reason is not None:
                self._left.clear()
                return Searcher.FINISHED
        self._under_way[trial_id] = upcoming
        return {"trial": self._left.popleft(), "epochs": upcoming.epochs}

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """Called by Tune when a trial has ended for good."""
        self._under_way.pop(trial_id, None)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: what is left to do follows from what is recorded."""

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its settings to go on from; a sweep goes on otherwise


class Looking(tune.Callback):  # type: ignore[misc]
    """Lets what goes on beside the trials look at ``rows`` several times a second, also while no trial may begin."""

    def __init__(self, rows: Callable[[], Sequence[IngredientRecord]], beside: Beside) -> None:
        self._rows, self._beside = rows, beside

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Called by Tune in the driver, several times a second."""
        self._beside.look(self._rows())

    def __getstate__(self) -> dict[str, Any]:
        return {}
