"""Waiting for intervals, signals and descriptors."""

import os
import signal
import time

from esimbpf.pace import Pace


def test_an_interval_ends_by_itself() -> None:
    with Pace(0.05) as pace:
        begun = time.monotonic()
        assert pace.wait() == set()
        assert 0.04 < time.monotonic() - begun < 1


def test_intervals_that_were_missed_are_left_out() -> None:
    with Pace(0.02) as pace:
        time.sleep(0.1)
        begun = time.monotonic()
        assert pace.wait() == set()
        assert time.monotonic() - begun < 0.015
        assert pace.wait() == set()
        assert time.monotonic() - begun > 0.001


def test_a_signal_ends_the_wait_at_once_and_its_handler_comes_back() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    with Pace(60, end_on=(signal.SIGUSR1,)) as pace:
        os.kill(os.getpid(), signal.SIGUSR1)
        assert pace.wait() == set()
        assert pace.ended is signal.SIGUSR1
    assert signal.getsignal(signal.SIGUSR1) is before


def test_a_readable_descriptor_interrupts_the_interval() -> None:
    read, write = os.pipe()
    os.write(write, b"x")
    with Pace(60) as pace:
        assert pace.wait(readable=(read,)) == {read}
    os.close(read)
    os.close(write)


def test_a_pipe_that_nobody_reads_any_more_is_noticed() -> None:
    read, write = os.pipe()
    with Pace(60) as pace:
        os.close(read)
        assert pace.wait(closing=(write,)) == {write}
    os.close(write)
