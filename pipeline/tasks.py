"""What a Ray task that failed has to say."""

from __future__ import annotations

import ray

from pipeline.errors import PipelineError


def raised_by(error: ray.exceptions.RayError, kind: type[PipelineError], what: str) -> Exception:
    """What the task itself raised; where its process or node was lost, a ``kind`` that says so of ``what``."""
    if isinstance(error, ray.exceptions.RayTaskError):
        return error.cause if isinstance(error.cause, Exception) else error
    lost = str(error).strip().partition("\n")[0]
    return kind(f"{what} was lost ({lost}); what is done is kept, give the same command again to go on")
