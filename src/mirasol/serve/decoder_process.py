"""The process that decodes untrusted files: it confines itself, then forks one child per file.

`python -m mirasol.serve.decoder_process FD` is started by `confined.py`. It imports everything once, so that a fork
costs milliseconds, and never decodes itself: what a file does to its child ends with the child.
"""

import contextlib
import ctypes
import json
import logging
import os
import pickle
import resource
import signal
import socket
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

NOBODY = 65534
NEW_USER, NEW_NETWORK, NO_NEW_PRIVILEGES = 0x10000000, 0x40000000, 38
FORK, KILL = b"F", b"K"
COMMAND = struct.Struct("!cq")
LENGTH = struct.Struct("!Q")
OPEN_FILES = 32
log = logging.getLogger("mirasol.serve")


def send(link: socket.socket, *pieces: bytes | memoryview) -> None:
    """Send pieces, each after its length."""
    for piece in pieces:
        link.sendall(LENGTH.pack(len(piece)))
        link.sendall(piece)


def receive(link: socket.socket, most: int) -> bytearray:
    """Return the next piece.

    Raises:
        EOFError: The other side is gone, or announces more than `most` bytes.
    """
    (length,) = LENGTH.unpack(_exactly(link, LENGTH.size))
    if length > most:
        raise EOFError(f"{length} bytes announced, at most {most} expected")
    return _exactly(link, length)


def _exactly(link: socket.socket, count: int) -> bytearray:
    data = bytearray(count)
    view = memoryview(data)
    while view:
        got = link.recv_into(view)
        if not got:
            raise EOFError("the other side is gone")
        view = view[got:]
    return data


def main(number: int) -> None:
    """Serve the control socket of this file number until the server is gone."""
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN)  # a draining server still decodes; it ends this process by hanging up
    control = socket.socket(fileno=number)
    notes = [_leave_network()]
    processor, limits = pickle.loads(receive(control, 2**31))  # from the server, never from a child
    _warm_up(processor, limits)
    notes.append(_leave_root())
    send(control, json.dumps([note for note in notes if note]).encode())
    children: set[int] = set()
    while True:
        try:
            data, files, _, _ = socket.recv_fds(control, COMMAND.size, 1)
        except OSError:
            data, files = b"", []
        if len(data) != COMMAND.size:
            break
        _reap(children)
        command, pid = COMMAND.unpack(data)
        if command == FORK and files:
            pid = os.fork()
            if not pid:
                control.close()
                _child(socket.socket(fileno=files[0]), processor, limits)
            os.close(files[0])
            children.add(pid)
        elif pid in children:  # not reaped, so the number is still its own
            os.kill(pid, signal.SIGKILL)
        control.sendall(COMMAND.pack(command, pid))
    for pid in children:
        os.kill(pid, signal.SIGKILL)
    os._exit(0)


def _reap(children: set[int]) -> None:
    for pid in list(children):
        if os.waitpid(pid, os.WNOHANG)[0]:
            children.discard(pid)


def _child(link: socket.socket, processor: Any, limits: Any) -> None:
    """Answer requests until the server hangs up; never returns."""
    code = 1
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        while True:
            request = json.loads(receive(link, 2**16))
            files = {name: bytes(receive(link, 2**40)) for name in request["files"]}
            _confine(limits, sum(map(len, files.values())))
            send(link, *_answer(request, files, processor, limits))
            signal.setitimer(signal.ITIMER_REAL, 0)
    except (EOFError, OSError):
        code = 0
    finally:
        os._exit(code)


def _answer(request: dict[str, Any], files: dict[str, bytes], processor: Any, limits: Any) -> tuple[bytes, bytes]:
    """Return facts as JSON and tensors as safetensors, or as JSON what is wrong with the file."""
    from safetensors.torch import save

    from mirasol.serve.decode import Media, WatchOptions, decode, decode_picture

    try:
        if request["options"] is None:
            pixels = decode_picture(files["image"], limits)
            return json.dumps({"shape": pixels.shape}).encode(), pixels.tobytes()
        decoded = decode(Media(**files), WatchOptions(**request["options"]), processor, limits)
        facts = json.dumps({"facts": decoded.facts}).encode()
        return facts, save({name: value.contiguous() for name, value in decoded.chunks.items()})
    except ValueError as error:
        return json.dumps({"refused": str(error)}).encode(), b""
    except Exception as error:
        return json.dumps({"failed": f"{type(error).__name__}: {error}"[:2_000]}).encode(), b""


def _confine(limits: Any, num_bytes: int) -> None:
    """Bound memory, time, files and threads of this process, for one request."""
    seconds = seconds_for(limits, num_bytes)
    now = 0  # bytes of address space
    if sys.platform == "linux":
        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    used = resource.getrusage(resource.RUSAGE_SELF)
    cores = os.cpu_count() or 1
    bounds = {
        resource.RLIMIT_AS: now + limits.decode_bytes + 8 * num_bytes,
        resource.RLIMIT_CPU: int(used.ru_utime + used.ru_stime + seconds * cores) + 1,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: OPEN_FILES,
    }
    if os.geteuid() == NOBODY:  # alone with this id; a user's own programs would count
        bounds[resource.RLIMIT_NPROC] = limits.decode_threads
    for kind, most in bounds.items():
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        with contextlib.suppress(ValueError, OSError):  # a system without this one
            resource.setrlimit(kind, (most, hard if kind in (resource.RLIMIT_AS, resource.RLIMIT_CPU) else most))
    signal.setitimer(signal.ITIMER_REAL, seconds)


def seconds_for(limits: Any, num_bytes: int) -> float:
    """Return how long files of so many bytes may take."""
    return limits.decode_seconds + limits.decode_seconds_per_mebibyte * num_bytes / 2**20


def _leave_network() -> str:
    """Move into a network namespace without interfaces; return why not, if so. Before any thread exists."""
    try:
        _system_call("unshare")(NEW_USER | NEW_NETWORK if os.geteuid() else NEW_NETWORK)
        return ""
    except (OSError, AttributeError) as error:
        return f"decoders keep their network, because this system allows no network namespace ({error})"


def _leave_root() -> str:
    """Give up root, so that a decoder cannot read what only root can; return why not, if so."""
    with contextlib.suppress(OSError, AttributeError):
        _system_call("prctl")(NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    if os.getuid():
        return ""
    try:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        return ""
    except OSError as error:
        return f"decoders run as root ({error}): start the server as another user"


def _system_call(name: str) -> Callable[..., None]:
    function = getattr(ctypes.CDLL(None, use_errno=True), name)

    def call(*arguments: int) -> None:
        if function(*arguments):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    return call


def _warm_up(processor: Any, limits: Any) -> None:
    """Decode a picture and a sound of our own, so that all modules are imported before a file can do harm."""
    import io
    import wave

    import torch
    from PIL import Image

    from mirasol.serve.decode import Media, WatchOptions, decode

    torch.set_num_threads(1)  # a pool of threads does not survive a fork
    sound, pictures = io.BytesIO(), {}
    with wave.open(sound, "wb") as file:
        file.setparams((1, 2, 44_100, 0, "NONE", ""))
        file.writeframes(bytes(44_100))
    for kind in ("JPEG", "PNG", "WEBP"):
        pictures[kind] = io.BytesIO()
        Image.new("RGB", (64, 48)).save(pictures[kind], kind)
        decode(Media(image=pictures[kind].getvalue(), audio=sound.getvalue()), WatchOptions(), processor, limits)


if __name__ == "__main__":
    with contextlib.suppress(EOFError, BrokenPipeError):  # the server ended before it had a file
        main(int(sys.argv[1]))
