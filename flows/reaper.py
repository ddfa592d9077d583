"""Flow runs whose process is gone are closed, which Prefect itself does not do.

A run whose worker and process were both killed stays RUNNING on the server for ever, and a deployment that
allows one run at a time then starts no other.
"""

import base64
import json
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field

import psutil

from flows.services import STOP_S

REAP_S = 10  # between two looks at the processes of flows
REAP_ALL_S = 60  # between two requests to Prefect while no process came or went
OPEN_STATES = ["PENDING", "RUNNING", "CANCELLING"]


@dataclass
class Reaper:
    """Closes the lost runs of one pool; `auth` is user:password, or empty.

    All workers of the pool are on this machine: the reaper looks for their flows among its processes.
    """

    api: str
    auth: str
    pool: str
    running: set[str] | None = None  # flow runs with a process, at the last complete look
    asked_at: float = 0.0
    missing: set[str] = field(default_factory=set)  # open runs that had no process at the last look

    def post(self, path: str, body: dict | list) -> list | dict:
        headers = {"Content-Type": "application/json"}
        if self.auth:
            headers["Authorization"] = f"Basic {base64.b64encode(self.auth.encode()).decode()}"
        request = urllib.request.Request(f"{self.api}{path}", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=10) as reply:
            return json.load(reply)

    def filter(self, kind: str, body: dict) -> list[dict]:
        """The flow runs or task runs (`kind`) that match."""
        return list(self.post(f"/{kind}/filter", body))

    def reap(self) -> None:
        """Every open run of the pool that had no process at two looks in a row is closed."""
        running, now = set(running_flows()), time.monotonic()
        if running == self.running and not self.missing and now - self.asked_at < REAP_ALL_S:
            return
        open_deployed = {"state": {"type": {"any_": OPEN_STATES}}, "deployment_id": {"is_null_": False}}
        body = {"flow_runs": open_deployed, "work_pools": {"name": {"any_": [self.pool]}}}
        open_runs = {run["id"]: run for run in self.filter("flow_runs", body)}
        missing = open_runs.keys() - running
        for run_id in missing & self.missing:
            self.close(open_runs[run_id])
        # set after all requests, which may fail: the next look then repeats them
        self.running, self.asked_at, self.missing = running, now, missing

    def close(self, run: dict) -> None:
        """The run, its open tasks and subflows are CRASHED, or CANCELLED where the run was CANCELLING."""
        cancelled = run["state"]["type"] == "CANCELLING"
        state = {
            "type": "CANCELLED" if cancelled else "CRASHED",
            "name": "Cancelled" if cancelled else "Crashed",
            "message": "its process was gone; the next run goes on from what it had finished",
        }
        open_tasks = {
            "flow_runs": {"id": {"any_": [run["id"]]}},
            "task_runs": {"state": {"type": {"any_": OPEN_STATES}}},
        }
        for task in self.filter("task_runs", open_tasks):
            self.post(f"/task_runs/{task['id']}/set_state", {"state": state, "force": True})
        for child in self.filter("flow_runs", {"flow_runs": {"parent_flow_run_id": {"any_": [run["id"]]}}}):
            if child["state"]["type"] in OPEN_STATES:
                self.close(child)
        self.post(f"/flow_runs/{run['id']}/set_state", {"state": state, "force": True})
        print(f"flow run {run['name']} had lost its process: {state['name']}", flush=True)

    def try_to_reap(self) -> None:
        try:
            self.reap()
        except OSError as error:  # the server starts or stops; the next look finds the same runs
            print(f"the reaper could not ask Prefect: {error}", flush=True)


def running_flows() -> Iterator[str]:
    """The ids of the flow runs that have a process on this machine."""
    for process in psutil.process_iter():
        try:
            if run_id := process.environ().get("PREFECT__FLOW_RUN_ID"):
                yield run_id
        except psutil.Error:
            continue


def stop_flows(api: str) -> None:
    """No flow that reports to `api` lives; each has stopped its stages, which resume from checkpoints."""
    flows = []
    for process in psutil.process_iter():
        try:
            env = process.environ()
        except psutil.Error:
            continue
        if "PREFECT__FLOW_RUN_ID" in env and env.get("PREFECT_API_URL") == api:
            flows.append(process)
    for process in flows:
        if process.is_running():
            process.terminate()
    for process in psutil.wait_procs(flows, timeout=STOP_S)[1]:
        process.kill()
