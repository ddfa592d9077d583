"""A worker of one pool beside servers elsewhere, and the reaper of its runs: what a container runs.

The reaper looks for flows among the processes that it sees, so a pool has its workers in one container.
"""

import os
import signal
import subprocess
import sys
import time

from flows.stages import die_with_parent
from flows.supervisor import REAP_S, STOP_S, TICK_S, Prefect, stop_flows, stop_now, worker_command


def main(pool: str) -> int:
    """Runs until the worker ends or a signal comes; at the end neither it nor a flow of it lives."""
    api = os.environ["PREFECT_API_URL"]
    prefect = Prefect(api, os.environ.get("PREFECT_API_AUTH_STRING", ""), pool)
    for sign in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sign, stop_now)
    worker = subprocess.Popen(worker_command(pool), preexec_fn=die_with_parent)
    reap_at = time.monotonic()
    try:
        while worker.poll() is None:
            if time.monotonic() >= reap_at:
                reap_at = time.monotonic() + REAP_S
                prefect.try_to_reap()
            time.sleep(TICK_S)
    except KeyboardInterrupt:
        worker.terminate()
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        try:
            worker.wait(STOP_S)
        except subprocess.TimeoutExpired:
            worker.kill()
        stop_flows(api)
    return worker.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
