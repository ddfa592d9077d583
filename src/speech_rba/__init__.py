"""Reinforced Behavior Alignment of speech language models, run every night (arXiv 2509.03526)."""

import os

# By default a waiting OpenMP thread spins for 200 ms and keeps its core from other processes: beside one busy
# process a command took 8 times as long. libgomp reads this when torch loads, so it is set before any import.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# Servers of this machine are reached directly, whatever proxy the environment names for others.
_direct = [os.environ.get(name, "") for name in ("no_proxy", "NO_PROXY")] + ["127.0.0.1,localhost"]
_hosts = dict.fromkeys(host.strip() for hosts in _direct for host in hosts.split(",") if host.strip())
for _name in ("no_proxy", "NO_PROXY"):
    os.environ[_name] = "*" if "*" in _hosts else ",".join(_hosts)
