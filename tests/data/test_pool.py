"""Pools of processes: what the user sees of a stop."""

import os
import signal
import subprocess
import sys

from tests.waiting import PATIENCE

CODE = """
import signal, sys, threading
from concurrent.futures import Future
from time import sleep
from mirasol.data.pool import forked_pool

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it

def tell():  # once the main thread has waited a second for the processes, as it does nearly always
    waits = 0
    while waits < 20:
        frame = sys._current_frames()[threading.main_thread().ident]
        waiting = frame.f_code is threading.Condition.wait.__code__ and frame.f_back.f_code is Future.result.__code__
        waits = waits + 1 if waiting else 0
        sleep(0.05)
    print("ready", flush=True)

with forked_pool(2) as pool:
    list(pool.map(abs, range(4)))
    sleeping = pool.map(sleep, [3600] * 4)
    threading.Thread(target=tell, daemon=True).start()
    list(sleeping)
"""


def test_ctrl_c_ends_the_processes_of_a_pool_at_once_and_without_a_traceback_of_theirs():
    command = [sys.executable, "-c", CODE]
    with subprocess.Popen(command, stdout=-1, stderr=-1, text=True, start_new_session=True) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            os.killpg(process.pid, signal.SIGINT)
            try:
                _, told = process.communicate(timeout=20)
            except subprocess.TimeoutExpired:  # it came just before a wait, which Python leaves at the next one only
                os.killpg(process.pid, signal.SIGINT)
                _, told = process.communicate(timeout=PATIENCE)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert told.rstrip().endswith("KeyboardInterrupt")
    assert "ForkProcess" not in told
