"""A process that has imported the program, and forks a process for each command: without the second or two that imports take.

`python -m dbsync_pipeline_tests.forkserver SOCKET OWNER` listens on a Unix socket, and ends when the process OWNER has ended. What it
forks is a process like any other: it has the caller's environment, folder, arguments, and standard streams, and runs the module as
`python -m` does, to its last exit handler. `dbsync_pipeline.definitions` reads the environment, so it is never imported beforehand.

The caller is `fork_client.py`: the process that a test or a shell starts in place of `python`. It hands its signals on and ends as the
forked process does; if it is killed, so is that one, with its process group.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

IMPORTED = (
    *(
        "dagster._cli",
        "dagster._daemon.cli",
        "psycopg2",
        "uvicorn",
        "sqlalchemy.dialects.postgresql",
    ),
    *(f"dbsync_pipeline.defs.{one}" for one in ("alerts", "assets", "connections", "failover")),
    *(f"dbsync_pipeline.defs.{one}" for one in ("readiness", "reaper", "retention", "schedules")),
    *("dbsync_pipeline.cli.app", "dbsync_pipeline.http.app", "dbsync_pipeline.models"),
    *("dbsync_pipeline.mirror.migrate.apply", "dbsync_pipeline.demo.fill"),
    *("dbsync_pipeline.mirror.verify", "dbsync_pipeline.mirror.doctor", "dbsync_pipeline.frames"),
)
_OWNER_SECONDS = 2.0

Command = Callable[[], None]


@dataclass
class _Server:
    """The open requests: the connection of each forked process."""

    listener: socket.socket
    owner: int
    selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    callers: dict[int, socket.socket] = field(default_factory=dict)

    def serve(self) -> Command | None:
        """Serve until the owner has ended. In a forked process: return what it has to run."""
        ended, wake = os.pipe()
        os.set_blocking(wake, False)
        os.set_blocking(ended, False)
        signal.set_wakeup_fd(wake)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.selector.register(self.listener, selectors.EVENT_READ)
        self.selector.register(ended, selectors.EVENT_READ)
        while _lives(self.owner):
            for key, _ in self.selector.select(_OWNER_SECONDS):
                if key.fileobj is self.listener:
                    if command := self._accept((ended, wake)):
                        return command
                elif key.fileobj == ended:
                    with contextlib.suppress(BlockingIOError):
                        os.read(ended, 1000)
                    self._report()
                elif isinstance(key.fileobj, socket.socket):
                    self._relay(key.fileobj, key.data)
        return None

    def _accept(self, own: tuple[int, ...]) -> Command | None:
        caller, _ = self.listener.accept()
        request, streams = _received(caller)
        pid = os.fork()
        if pid:
            for stream in streams:
                os.close(stream)
            self.callers[pid] = caller
            self.selector.register(caller, selectors.EVENT_READ, pid)
            return None
        self.selector.close()
        for other in (*self.callers.values(), caller, self.listener):
            other.close()
        signal.set_wakeup_fd(-1)
        for descriptor in own:
            os.close(descriptor)
        return _become(request, streams)

    def _relay(self, caller: socket.socket, pid: int) -> None:
        """A signal for the process; or the caller was killed, and so is the process with all that it started."""
        number = caller.recv(1)
        with contextlib.suppress(ProcessLookupError):
            if number:
                os.kill(pid, number[0])
            else:
                self.selector.unregister(caller)
                os.kill(pid, signal.SIGKILL)
                os.killpg(pid, signal.SIGKILL)

    def _report(self) -> None:
        while self.callers:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            caller = self.callers.pop(pid)
            with contextlib.suppress(KeyError):
                self.selector.unregister(caller)
            with contextlib.suppress(OSError):
                caller.sendall(struct.pack("i", os.waitstatus_to_exitcode(status)))
            caller.close()


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _received(caller: socket.socket) -> tuple[dict[str, Any], list[int]]:
    header, streams, _, _ = socket.recv_fds(caller, 4, 3)
    length, text = struct.unpack("I", header)[0], b""
    while len(text) < length:
        text += caller.recv(length - len(text))
    return json.loads(text), streams


def _become(request: dict[str, Any], streams: list[int]) -> Command:
    """Make this forked process the one that was requested, as Python makes itself at its start."""
    os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(request["environment"])
    time.tzset()
    os.chdir(request["folder"])
    os.umask(request["umask"])
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = _stream(number, getattr(sys, name))
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    option, what, *words = request["words"]
    named = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    first = os.getcwd() if option == "-m" else ""
    sys.path[:0] = [first, *(name for name in named if name)]
    sys.argv[:] = ["-c" if option == "-c" else what, *words]
    if option == "-m":
        return lambda: _run_module(what)
    return lambda: exec(compile(what, "<string>", "exec"), _empty_main())


def _stream(number: int, like: Any) -> Any:
    by_line = 1 if os.isatty(number) or number == 2 else -1
    mode = "w" if number else "r"
    return open(number, mode, by_line, like.encoding, like.errors, closefd=False)


def _run_module(name: str) -> None:
    runpy.run_module(name, run_name="__main__", alter_sys=True)


def _empty_main() -> dict[str, Any]:
    main = type(sys)("__main__")
    sys.modules["__main__"] = main
    return main.__dict__


def main() -> None:
    path, owner = sys.argv[1:]
    sys.path.pop(0)  # the folder of this process
    for module in IMPORTED:
        importlib.import_module(module)
    assert len(os.listdir("/proc/self/task")) == 1, "a thread would be lost in what is forked"
    gc.collect()
    gc.freeze()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{path}.new")
        listener.listen(64)
        os.rename(f"{path}.new", path)
        command = _Server(listener, int(owner)).serve()
    if command:
        _run_to_its_end(command)


def _run_to_its_end(command: Command) -> None:
    """Run it and end as Python does, but leave the memory to the kernel: to free it object by object takes longer than to fork it."""
    status: object = None
    try:
        command()
    except SystemExit as end:
        status = end.code
    if not isinstance(status, int | None):
        raise SystemExit(status)  # Python writes it
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        raise SystemExit(status) from None  # Python says that it could not write
    os._exit((status or 0) & 0xFF)


if __name__ == "__main__":
    main()
