"""A worker of one pool beside servers elsewhere, and the reaper of its runs: what a container runs.

The reaper looks for flows among the processes that it sees, so all workers of a pool run in one container.
"""

import os
import signal
import subprocess
import sys
import time

from flows.reaper import REAP_S, Reaper, stop_flows
from flows.servers import worker_command
from flows.services import STOP_S
from flows.stages import die_with_parent
from flows.supervisor import TICK_S, raise_interrupt


def main(pool: str) -> int:
    """Runs until the worker ends or a signal comes; at the end neither the worker nor a flow of it lives."""
    api = os.environ["PREFECT_API_URL"]
    reaper = Reaper(api, os.environ.get("PREFECT_API_AUTH_STRING", ""), pool)
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signal_number, raise_interrupt)
    worker = subprocess.Popen(worker_command(pool), preexec_fn=die_with_parent)
    reap_at = time.monotonic()
    try:
        while worker.poll() is None:
            if time.monotonic() >= reap_at:
                reap_at = time.monotonic() + REAP_S
                reaper.try_to_reap()
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
