"""What stands between Lightning and a user: its chatter, its Ctrl-C, and errors of the system."""

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

# What Lightning tells those who write training loops, and no one who starts them can act on.
_CHATTER = (
    "The number of training batches",
    ".*does not have many workers",
    "You have overridden `on_after_batch_transfer`",
    ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated",
)

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def calm() -> Iterator[None]:
    """Keeps Lightning's announcements off standard error; its warnings about the run stay."""
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
    """Makes UserErrors of what a user can mend, and of Lightning's exit a KeyboardInterrupt again.

    Lightning leaves Ctrl-C switched off, too; it works again afterwards. After SIGTERM the exit
    status is 143, as is the custom.

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
            f"the disk is full ({one_line(error)}); the checkpoints are whole: make room, then run "
            "the same command with --resume"
        ) from error
    finally:
        if signal.getsignal(signal.SIGINT) is not handler:
            signal.signal(signal.SIGINT, handler)


@contextmanager
def settings_as_user_errors() -> Iterator[None]:
    """Makes UserErrors of what networks, modules, data and the trainer say about their arguments.

    Raises:
        UserError: A setting does not do, or a package that it needs is not installed.
    """
    try:
        yield
    except (ValueError, ImportError, MisconfigurationException) as error:
        raise UserError(one_line(error)) from error
