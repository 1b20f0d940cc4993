"""ray.data without its progress bars and plans, which would bury the log of the run."""

from __future__ import annotations

import logging


def quiet_ray_data() -> None:
    """For the executions of this process; warnings stay, save the one that there are no progress bars."""
    from ray.data import DataContext

    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)
    DataContext.get_current().enable_progress_bars = False
