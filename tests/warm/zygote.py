"""A process that has imported what the worker imports, and forks a worker for each that is started.

Importing takes ten seconds on two cores and a fork ten milliseconds. It must never execute a torch operation: a
child forked from threads that have run hangs at its first one. Whatever a library reads from the environment when it
is imported (HF_ENDPOINT, HF_HOME) stays as it was here; tests of those start a worker the slow way.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import time


def serve(path: str) -> None:
    import peft
    import transformers
    from transformers.models.qwen3 import modeling_qwen3

    import colab_magics.training.attempt
    import colab_magics.training.result

    assert all((peft, transformers, modeling_qwen3, colab_magics.training.attempt))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(path)
        listening.listen(16)
        print("ready", flush=True)
        while True:
            connection, _ = listening.accept()
            if os.fork() == 0:
                listening.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                _supervise(connection)
            connection.close()


def _supervise(connection: socket.socket) -> None:
    """Fork the worker, tell its pid, and later how it ended; it dies with the process that stands for it."""
    received, descriptors, _, _ = socket.recv_fds(connection, 1 << 20, 1)
    while not received.endswith(b"\n"):
        received += connection.recv(1 << 20)
    request = json.loads(received)
    pid = os.fork()
    if pid == 0:
        connection.close()
        _work(request, descriptors[0])
    connection.sendall(f"{pid}\n".encode())
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
            os._exit(0)
        readable, _, _ = select.select([connection], [], [], 0.01)
        if readable and not connection.recv(1):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            os._exit(0)


def _work(request: dict[str, object], output: int) -> None:
    os.setsid()
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.clear()
    os.environ.update(request["environment"])  # type: ignore[call-overload]
    os.chdir(str(request["cwd"]))
    time.tzset()
    from colab_magics.training import preflight
    from colab_magics.training.__main__ import main

    if "WARM_REFUSES_NOTHING" in os.environ:  # for what happens where an estimate was wrong
        preflight.check_fit = lambda *_, **__: None
    code = 1
    try:
        code = main(request["arguments"])  # type: ignore[arg-type]
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve(sys.argv[1])
