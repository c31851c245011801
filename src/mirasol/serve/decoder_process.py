"""The process that decodes untrusted files: it confines itself, then forks a child for each file.

`confined.py` starts it as `python -m mirasol.serve.decoder_process FD`. It imports all modules once, so that a fork
takes milliseconds. It does not decode, so that a file can harm only its child.
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
        EOFError: The other side closed the socket, or announces more than `most` bytes.
    """
    (length,) = LENGTH.unpack(read_exactly(link, LENGTH.size))
    if length > most:
        raise EOFError(f"{length} bytes announced, at most {most} expected")
    return read_exactly(link, length)


def read_exactly(link: socket.socket, count: int) -> bytearray:
    """Return `count` bytes. Raises EOFError if the other side closes the socket before."""
    data = bytearray(count)
    view = memoryview(data)
    while view:
        got = link.recv_into(view)
        if not got:
            raise EOFError("the other side closed the socket")
        view = view[got:]
    return data


def main(number: int) -> None:
    """Serve the control socket with this file descriptor until the server closes it."""
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN)  # a draining server still decodes, and closes the socket at its end
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
        elif pid in children:  # not reaped, so that no other process has the number
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
    """Answer requests until the server closes the socket; never return."""
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
    """Return facts as JSON and tensors as safetensors, or the file's fault as JSON."""
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
    """Limit the memory, time, files and threads of this process for one request."""
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
    if os.geteuid() == NOBODY:  # only decoders have this user id; other processes of a user would count
        bounds[resource.RLIMIT_NPROC] = limits.decode_threads
    for kind, most in bounds.items():
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        with contextlib.suppress(ValueError, OSError):  # the system lacks this limit
            resource.setrlimit(kind, (most, hard if kind in (resource.RLIMIT_AS, resource.RLIMIT_CPU) else most))
    signal.setitimer(signal.ITIMER_REAL, seconds)


def seconds_for(limits: Any, num_bytes: int) -> float:
    """Return the time limit for files of `num_bytes` bytes."""
    return limits.decode_seconds + limits.decode_seconds_per_mebibyte * num_bytes / 2**20


def _leave_network() -> str:
    """Enter a network namespace without interfaces, before any thread starts; return a warning if that fails."""
    try:
        _system_call("unshare")(NEW_USER | NEW_NETWORK if os.geteuid() else NEW_NETWORK)
        return ""
    except (OSError, AttributeError) as error:
        return f"decoders have network access, because this system allows no network namespace ({error})"


def _leave_root() -> str:
    """Become the user nobody, if this is root; return a warning if that fails."""
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
        return f"decoders run as root ({error}). Start the server as another user"


def _system_call(name: str) -> Callable[..., None]:
    function = getattr(ctypes.CDLL(None, use_errno=True), name)

    def call(*arguments: int) -> None:
        if function(*arguments):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    return call


def _warm_up(processor: Any, limits: Any) -> None:
    """Decode generated pictures and audio, which imports all modules before the first untrusted file."""
    import io
    import wave

    import torch
    from PIL import Image

    from mirasol.serve.decode import Media, WatchOptions, decode

    torch.set_num_threads(1)  # a thread pool does not survive a fork
    sound, pictures = io.BytesIO(), {}
    with wave.open(sound, "wb") as file:
        file.setparams((1, 2, 44_100, 0, "NONE", ""))
        file.writeframes(bytes(44_100))
    for kind in ("JPEG", "PNG", "WEBP"):
        pictures[kind] = io.BytesIO()
        Image.new("RGB", (64, 48)).save(pictures[kind], kind)
        decode(Media(image=pictures[kind].getvalue(), audio=sound.getvalue()), WatchOptions(), processor, limits)


if __name__ == "__main__":
    with contextlib.suppress(EOFError, BrokenPipeError):  # the server ended before it sent a file
        main(int(sys.argv[1]))
