"""The errors that public functions raise."""


class UserError(Exception):
    """What the user can mend: shown as one line, without a traceback."""


class ExplainerError(RuntimeError):
    """An explainer raised an error in the middle of training."""
