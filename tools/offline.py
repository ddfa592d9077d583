"""Runs a command without network, but for loopback: `python tools/offline.py COMMAND [ARG ...]`.

It needs a Linux network namespace, as root or with user namespaces. Where neither is allowed, it says so and
runs the command with the network.
"""

import ctypes
import fcntl
import os
import socket
import struct
import sys

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000  # <linux/sched.h>
SIOCSIFFLAGS, IFF_UP = 0x8914, 1  # <linux/sockios.h>, <linux/if.h>


def switch_off() -> bool:
    """True after the network is off for this process; False where the machine does not allow that."""
    user, group = os.getuid(), os.getgid()
    if ctypes.CDLL(None).unshare(CLONE_NEWNET if user == 0 else CLONE_NEWUSER | CLONE_NEWNET):
        return False
    if user:
        maps = {"setgroups": "deny", "uid_map": f"{user} {user} 1", "gid_map": f"{group} {group} 1"}
        for name, text in maps.items():
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh", b"lo", IFF_UP))
    return True


if __name__ == "__main__":
    left_on = "network: left on, this machine allows no network namespace"
    print("network: off" if switch_off() else left_on, flush=True)
    os.execvp(sys.argv[1], sys.argv[1:])
