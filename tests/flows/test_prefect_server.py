"""The event loop of Prefect's server does not stop while its database is locked."""

import subprocess
import sys

SCRIPT = """
import asyncio, sqlite3, sys, threading, time
from flows import prefect_server

def connect(**options):
    return sqlite3.connect(sys.argv[1], isolation_level=None, check_same_thread=False, **options)

def write(connection):
    try:
        connection.execute("INSERT INTO t VALUES (1)")
    except (sqlite3.OperationalError, SystemError):  # SystemError where the cursor was freed at that moment
        print("locked")

class Garbage:
    pass

async def main():
    holder, waiter = connect(), connect(timeout=1.5, cached_statements=1)
    holder.execute("CREATE TABLE IF NOT EXISTS t (x)")
    garbage = Garbage()
    garbage.itself, garbage.cursor = garbage, waiter.execute("SELECT 1 UNION SELECT 2")  # not read to its end
    garbage.cursor.fetchone()
    waiter.execute("SELECT 3").fetchall()
    holder.execute("BEGIN EXCLUSIVE")
    writer = threading.Thread(target=write, args=[waiter])
    writer.start()
    time.sleep(0.3)
    del garbage
    silence_s, last = 0, time.monotonic()
    while writer.is_alive():
        for _ in range(1000):
            cycle = Garbage()
            cycle.itself = cycle
        await asyncio.sleep(0.01)
        silence_s, last = max(silence_s, time.monotonic() - last), time.monotonic()
    holder.rollback()
    print(silence_s)

asyncio.run(main())
prefect_server.collect_in_a_thread(0.1)
asyncio.run(main())
"""


def test_a_cursor_that_nobody_closed_does_not_stop_the_event_loop(tmp_path):
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "test.db")]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    locked, silence_s, locked_again, silence_with_thread_s = output.splitlines()
    assert locked == locked_again == "locked"  # after 1.5 s
    assert float(silence_s) > 0.9 > float(silence_with_thread_s)
