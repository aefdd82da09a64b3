"""The errors that public functions raise beside Python's own."""


class UserError(ValueError):
    """Something the user can mend: the command line shows it as one line, without a traceback."""


class MissingPackageError(UserError, ImportError):
    """A package that an option needs is not installed; the message names the command."""


class ExplainerError(RuntimeError):
    """An explainer raised an error in the middle of training."""
