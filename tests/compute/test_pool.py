"""The process pool: results in the order of the rows, the same for every number of processes."""

import math

import pytest

from speech_rba.compute import pool


@pytest.mark.parametrize("num_processes", [1, 2])
def test_results_keep_the_order_of_the_rows_for_any_number_of_processes(num_processes, monkeypatch):
    monkeypatch.setattr(pool.os, "cpu_count", lambda: num_processes)
    rows = list(range(2 * pool.ROWS_AT_ONCE + 1))
    with pool.process_pool() as map_rows:
        assert list(map_rows(math.factorial, rows)) == [math.factorial(row) for row in rows]


def test_an_error_in_a_process_reaches_the_caller():
    with pytest.raises(ValueError), pool.process_pool() as map_rows:
        list(map_rows(math.sqrt, [4.0, -1.0]))
