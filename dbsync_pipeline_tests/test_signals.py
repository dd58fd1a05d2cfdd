"""A Ctrl-C that a library catches, or loses in a callback, is not lost."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from dbsync_pipeline import signals

pytestmark = [pytest.mark.unit, pytest.mark.skipif(sys.platform == "win32", reason="no signals")]


def test_a_loop_that_waits_learns_of_a_ctrl_c_that_was_lost() -> None:
    with signals.raised(), pytest.raises(KeyboardInterrupt), signals.kept():
        signals.check()
        with pytest.raises(KeyboardInterrupt):  # caught by a library
            os.kill(os.getpid(), signal.SIGINT)
            sum(range(1000))
        for _ in range(100_000):
            signals.check()
        pytest.fail("the signal was lost")


def test_a_ctrl_c_that_was_lost_is_raised_at_the_end_of_the_block_and_not_after_it() -> None:
    with signals.raised():
        with pytest.raises(KeyboardInterrupt), signals.kept(), pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            sum(range(1000))
        signals.check()
