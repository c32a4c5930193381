"""Errors that the command line reports in one paragraph, without a traceback."""


class ExperimentError(Exception):
    """What the user asked for cannot be done; the message says why and what to do."""


class UsageError(ExperimentError, ValueError):
    """An option has a value that it cannot have."""


class DataUnavailableError(ExperimentError):
    """A data set is not on this machine and cannot be fetched."""


class RunFolderError(ExperimentError):
    """A run folder cannot be used as asked."""


class CheckpointError(ExperimentError):
    """A checkpoint cannot be read or written as asked."""


class AmbiguousUnitsError(ExperimentError):
    """The hidden units of a checkpoint cannot be told from its names and shapes."""
