"""The peers' side of the benchmark: one request a line on stdin, one answer a line on stdout, both JSON.

The benchmark and its peers take turns on the machine, so each peer is a process that waits until it is asked. A request
names a handler; what the handler returns without being called is prepared outside the clock, the call is timed.
"""

import json
import os
import resource
import sys
import time

# Waiting threads must not take the cores from whoever's turn it is. To be set before numerical libraries are loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def serve(about, handlers):
    """Says `about` (names and versions), then answers requests until stdin ends."""
    answer(about)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            work = handlers[request["op"]](request)
            wall, cpu = time.perf_counter(), time.process_time()
            result = {}
            for _ in range(request.get("times", 1)):
                result = work() or {}
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
            answer({"wall": wall, "cpu": cpu, "peak": peak} | result)
        except Exception as error:  # the benchmark goes on without this figure
            answer({"error": f"{type(error).__name__}: {error}".splitlines()[0]})


def answer(message):
    """One line, at once."""
    real_stdout.write(json.dumps(message) + "\n")
    real_stdout.flush()


# What libraries print is no answer.
real_stdout = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
