"""`python -I -S fork_client.py SOCKET -m MODULE …`: what `python -m MODULE …` does, by a process that `forkserver.py` forks.

It imports as little as it can, since that is what it is for. `-c PROGRAM …` works too.
"""

import array
import json
import os
import signal
import socket
import struct
import sys


def main() -> None:
    _, path, *words = sys.argv
    server = socket.socket(socket.AF_UNIX)
    server.connect(path)
    umask = os.umask(0)
    request = {
        "words": words,
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "umask": umask,
    }
    text = json.dumps(request).encode()
    streams = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))]
    server.sendmsg([struct.pack("I", len(text))], streams)
    server.sendall(text)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, lambda number, _frame: server.sendall(bytes([number])))
    for stream in (0, 1, 2):  # a reader of this one's output sees its end when the program ends
        os.close(stream)
    answer = server.recv(4)
    status = struct.unpack("i", answer)[0]
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


main()
