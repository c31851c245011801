"""Pools of processes: what the user sees of a stop."""

import os
import signal
import subprocess
import sys
import time

CODE = """
from time import sleep
from mirasol.data.pool import forked_pool
with forked_pool(2) as pool:
    list(pool.map(abs, range(4)))
    print("ready", flush=True)
    list(pool.map(sleep, [60] * 4))
"""


def test_ctrl_c_ends_the_processes_of_a_pool_at_once_and_without_a_traceback_of_theirs():
    command = [sys.executable, "-c", CODE]
    with subprocess.Popen(command, stdout=-1, stderr=-1, text=True, start_new_session=True) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            time.sleep(0.5)  # now it waits for them, as it does nearly always
            os.killpg(process.pid, signal.SIGINT)
            _, told = process.communicate(timeout=30)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert told.rstrip().endswith("KeyboardInterrupt")
    assert "ForkProcess" not in told
