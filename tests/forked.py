"""Processes of one job without torchrun, forked: they share the work as torchrun's do, and start in no time."""

import os
import socket
import traceback

from vlae_fast.distributed import joined


def forked(size, action):
    """Exit statuses of `size` processes that do `action(world)`: what it returns, 1 where it raises."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [
        os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        for child in [_fork(r, size, port, action) for r in range(size)]
    ]


def _fork(rank, size, port, action):
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "tests"}
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
            with joined() as world:
                status = int(action(world) or 0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return child
