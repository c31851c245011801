"""`Confined`: `decode.py` in child processes, so that a file can crash or hang only its own decoder."""

import contextlib
import json
import logging
import os
import pickle
import socket
import subprocess
import sys
import threading
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load

from mirasol.media import MediaError
from mirasol.serve.decode import Decoded, Media, WatchOptions
from mirasol.serve.decoder_process import COMMAND, FORK, KILL, read_exactly, receive, seconds_for, send
from mirasol.serve.limits import Limits

log = logging.getLogger("mirasol.serve")
GRACE_SECONDS = 10.0  # beyond the child's own time limit, for a busy machine
START_SECONDS = 120.0  # torch is imported
PICTURES_OF_ONE_CHILD = 1_000
FACTS_BYTES = 2**26
KEPT_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "TMPDIR")


class Worker:
    """A child process and its socket. `count` is the number of requests that it has answered."""

    def __init__(self, link: socket.socket, pid: int):
        self.link, self.pid, self.count = link, pid, 0

    def ask(self, request: dict[str, Any], files: list[bytes], limits: Limits) -> tuple[dict[str, Any], bytearray]:
        """Return the answer and its bytes.

        Raises:
            OSError, EOFError, ValueError: The child ended, took too long, or sent an invalid answer.
        """
        num_bytes = sum(map(len, files))
        self.link.settimeout(seconds_for(limits, num_bytes) + GRACE_SECONDS)
        send(self.link, json.dumps(request).encode(), *files)
        answer = json.loads(receive(self.link, FACTS_BYTES))
        payload = receive(self.link, limits.decode_bytes)
        self.count += 1
        return answer, payload


class Confined:
    """Decodes in child processes. All methods may be called from any thread.

    Args:
        processor: Processor of the checkpoint.
        limits: Bounds on memory, time, and the content of a file.
    """

    def __init__(self, processor: Any, limits: Limits):
        self._start_with, self.limits = pickle.dumps((processor, limits)), limits
        self._lock = threading.Lock()
        self._idle: SimpleQueue[Worker] = SimpleQueue()  # children for pictures; each clip has a child of its own
        self._is_closed = False
        self.notes: list[str] = []  # confinements that this system does not allow
        self._start()

    def decode(self, media: Media, options: WatchOptions, processor: Any, limits: Limits) -> Decoded:
        """Return the chunks of a clip, as `decode.decode` does.

        Raises:
            MediaError: The files have no usable media, exceed the limits, or end their child.
        """
        files = {name: value.read_bytes() if isinstance(value, Path) else value for name, value in media.parts()}
        worker = self._fork()
        try:
            answer, payload = self._ask(worker, {"files": list(files), "options": vars(options)}, list(files.values()))
        finally:
            self._end(worker)
        try:
            return Decoded(load(bytes(payload)), answer["facts"])
        except (SafetensorError, KeyError, ValueError) as error:
            raise self._ended(f"answered with no tensors ({error})") from error

    def decode_picture(self, data: bytes, limits: Limits) -> np.ndarray:
        """Return the pixels of a picture, as `decode.decode_picture` does.

        Raises:
            MediaError: The data are not a picture, exceed the limits, or end their child.
        """
        try:
            worker = self._idle.get_nowait()
        except Empty:
            worker = self._fork()
        try:
            answer, payload = self._ask(worker, {"files": ["image"], "options": None}, [data])
            pixels = np.frombuffer(payload, np.uint8).reshape(answer["shape"])
        except MediaError as error:
            if isinstance(error, _EndedError):
                self._end(worker)
            else:
                self._idle.put(worker)
            raise
        except (KeyError, ValueError, TypeError) as error:
            self._end(worker)
            raise self._ended(f"answered with no pixels ({error})") from error
        if worker.count < PICTURES_OF_ONE_CHILD and not self._is_closed:
            self._idle.put(worker)
        else:
            self._end(worker)
        return pixels

    def close(self) -> None:
        """End all child processes."""
        with self._lock:
            self._is_closed = True
            self._control.close()
        self._process.wait()

    def _ask(self, worker: Worker, request: dict[str, Any], files: list[bytes]) -> tuple[dict[str, Any], bytearray]:
        try:
            answer, payload = worker.ask(request, files, self.limits)
            if not isinstance(answer, dict):
                raise ValueError(f"{answer!r:.80}")
        except (OSError, EOFError, ValueError, RecursionError) as error:
            raise self._ended(str(error)) from error
        if "refused" in answer:
            raise MediaError(str(answer["refused"]))
        if "failed" in answer:
            log.warning("a file could not be decoded: %s", answer["failed"])
            raise MediaError(
                f"Expected a file that can be decoded, found one that fails with {str(answer['failed'])[:200]}. "
                "Export or record it again."
            )
        return answer, payload

    def _ended(self, why: str) -> "_EndedError":
        log.warning("a file ended the process that decoded it: %s", why)
        return _EndedError(
            f"Expected a file that can be decoded within {self.limits.decode_seconds:g} s and "
            f"{self.limits.decode_bytes >> 20} MiB (more for a large one), found one that ended the process that "
            "decoded it. Cut the clip, encode it smaller, or export it again."
        )

    def _fork(self) -> Worker:
        """Return a new child; restart the process that forks if it died."""
        with self._lock:
            for attempt in range(2):
                ours, theirs = socket.socketpair()
                try:
                    self._wait_until_ready()
                    socket.send_fds(self._control, [COMMAND.pack(FORK, 0)], [theirs.fileno()])
                    return Worker(ours, self._reply())
                except (OSError, EOFError) as error:
                    ours.close()
                    if attempt or self._is_closed:
                        raise RuntimeError(f"the process that decodes cannot be started ({error})") from error
                    log.warning("the process that starts decoders died (%s) and is started again", error)
                    self._control.close()
                    self._process.wait()
                    self._start()
                finally:
                    theirs.close()
        raise AssertionError("returned or raised above")

    def _end(self, worker: Worker) -> None:
        worker.link.close()
        with self._lock, contextlib.suppress(OSError, EOFError):
            self._control.sendall(COMMAND.pack(KILL, worker.pid))
            self._reply()

    def _reply(self) -> int:
        return COMMAND.unpack(read_exactly(self._control, COMMAND.size))[1]

    def _start(self) -> None:
        self._control, theirs = socket.socketpair()
        self._control.settimeout(START_SECONDS)
        kept = {name: os.environ[name] for name in KEPT_ENVIRONMENT if name in os.environ}  # no secrets
        own = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2",
               "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}  # fmt: skip
        words = [sys.executable, "-m", "mirasol.serve.decoder_process", str(theirs.fileno())]
        with theirs:
            self._process = subprocess.Popen(
                words, pass_fds=[theirs.fileno()], env={**kept, **own}, stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C reaches only the server, which still decodes accepted files
            )  # fmt: skip
        self._is_ready = False

    def _wait_until_ready(self) -> None:
        if not self._is_ready:
            send(self._control, self._start_with)
            self.notes = json.loads(receive(self._control, 2**16))
            for note in self.notes:
                log.warning(note)
            self._is_ready = True


class _EndedError(MediaError):
    """A file ended the process that decoded it."""
