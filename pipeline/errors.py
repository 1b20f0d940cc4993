"""The error tree: every mistake that a user can make ends in one of these.

A message is one line per problem and says what was wrong, where, and what to do. The command line prints it without a
traceback and exits with status 2.
"""


class PipelineError(Exception):
    """Base of every error that the command line shows without a traceback."""


class ConfigError(PipelineError):
    """A setting that cannot be used; the message lists all problems found."""


class DataError(PipelineError):
    """Images, labels or splits that cannot be used."""


class ModelError(PipelineError):
    """A backbone, head or weight file that cannot be built or read."""


class SearchError(PipelineError):
    """A sweep that cannot start or that left nothing to go on with."""


class IngredientError(PipelineError):
    """An ingredient that cannot be read or does not fit the others; names file, tensor and both values."""


class SoupError(PipelineError):
    """A soup that cannot be built with the given ingredients or settings."""


class RegistryError(PipelineError):
    """The MLflow tracking server or an artifact in it cannot be used."""


class TrialRejected(PipelineError):
    """Fine-tuning ended without a usable ingredient (a loss that is not finite, say); never retried."""
