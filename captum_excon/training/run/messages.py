"""What Lightning and the system report, turned into messages for the user."""

from __future__ import annotations

import errno
import logging
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from lightning.fabric.utilities.exceptions import MisconfigurationException

from captum_excon._messages import one_line
from captum_excon.errors import ExplainerError, UserError

# Hints for authors of training loops, which whoever starts a run cannot act on.
_CHATTER = (
    "The number of training batches",
    ".*does not have many workers",
    "You have overridden `on_after_batch_transfer`",
    ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated",
)

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def calm() -> Iterator[None]:
    """Silences Lightning's announcements, but not its warnings about the run."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        for message in _CHATTER:
            warnings.filterwarnings("ignore", message)
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextmanager
def as_user_errors() -> Iterator[None]:
    """Turns errors that the user can mend into UserErrors, and Lightning's exit into Ctrl-C.

    Lightning also leaves Ctrl-C disabled; it works again afterwards. After SIGTERM the exit status
    is 143, by convention.

    Raises:
        UserError: The disk is full, the loss is not finite, or the explainer has failed.
        KeyboardInterrupt: The user has pressed Ctrl-C.
    """
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from error
        if error.code is None:  # after SIGTERM; without a status it would pass for success
            raise SystemExit(128 + signal.SIGTERM) from error
        raise
    except (FloatingPointError, ExplainerError) as error:
        raise UserError(one_line(error)) from error
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise UserError(
            f"the disk is full ({one_line(error)}); the checkpoints are intact: free some space, "
            "then run the same command with --resume"
        ) from error
    finally:
        if signal.getsignal(signal.SIGINT) is not handler:
            signal.signal(signal.SIGINT, handler)


@contextmanager
def settings_as_user_errors() -> Iterator[None]:
    """Turns errors of networks, data and the trainer about settings or packages into UserErrors."""
    try:
        yield
    except (ValueError, ImportError, MisconfigurationException) as error:
        raise UserError(one_line(error)) from error
