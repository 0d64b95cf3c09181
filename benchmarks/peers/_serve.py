"""What every peer's worker does: open one model, then time blocks of runs when it is asked to.

A worker is a process in the peer's own environment, so it imports nothing of edgeseed. It reads one
line with a number of runs, and answers one line of JSON with the nanoseconds of each: on the clock,
and of the processor.
"""

import json
import sys
import time


def serve(run, versions):
    """Answers until its input ends.

    Args:
        run: Takes one photo in, computes and gives the outputs out, as our engines do in their
            time: what a file takes in and gives out is part of it.
        versions: Name -> version of what computes.
    """
    run()
    answer({"ready": versions})
    for line in sys.stdin:
        samples = []
        for _ in range(int(line)):
            clock, used = time.perf_counter_ns(), time.process_time_ns()
            run()
            samples.append((time.perf_counter_ns() - clock, time.process_time_ns() - used))
        answer(samples)


def answer(value):
    """One line of JSON."""
    print(json.dumps(value), flush=True)
