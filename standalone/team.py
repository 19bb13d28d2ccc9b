"""Several processes on one streamed edit, by torch.distributed: what they agree on before they share out its windows.

Each is told by the environment who it is, as torchrun does it, and as ``processes.launch`` does. Once they have
agreed, nothing is exchanged any more: each computes the keys of gather-swap's group for its windows itself, as one
process does for every window. So one that dies takes nothing with it but the window that it was at.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from .graph import GraphError

#: Processes wait for the slowest one, which may train; torch.distributed's own patience is half an hour.
PATIENCE = timedelta(days=2)
#: They begin together, so that one that has not come by then has ended.
MEETING = timedelta(minutes=10)
#: Environment variable with a folder, in which a process leaves its number when it has met the others.
MET = "STEADYEDIT_MET"
GO_ON = "Finished windows are kept, and the same command goes on with them, in fewer processes too."
#: Seconds between two looks at whether the process that began this one is alive.
LOOK = 0.5


class Ended(KeyboardInterrupt):
    """Another process of the run has ended, so that torchrun ends this one."""


def processes() -> int:
    """How many there are; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", 1))


def rank_of_this() -> int:
    """This process's number; 0 without torchrun."""
    return int(os.environ.get("RANK", 0))


@dataclass(frozen=True)
class Team:
    """This process among those of one run.

    Args:
        rank: its number, from 0; that one writes the video.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    def all_gather(self, value: Any) -> list[Any]:
        """What every process gives here, in their order.

        Raises:
            GraphError: a process ended before.
        """
        if self.size == 1:
            return [value]
        import torch.distributed as dist

        found = [None] * self.size
        with _ended_is_told():
            dist.all_gather_object(found, value)
        return found

    def agree(self, what: str, value: str | None) -> None:
        """Raise GraphError unless all processes have the same."""
        if len(set(self.all_gather(value))) > 1:
            raise GraphError(f"--stream: the {self.size} processes have different {what}, so that their windows would "
                             "not fit together; let them run on devices of one kind, with the same files.")

    def in_turn(self, make: Callable[[], Any]) -> Any:
        """``make()`` by the first process, then by the others, which find what the first one has kept."""
        if self.rank == 0:
            made = make()
        self.all_gather(None)
        return made if self.rank == 0 else make()


@contextmanager
def team() -> Iterator[Team]:
    """The processes of this run, which can be asked inside the ``with``.

    Raises:
        GraphError: they did not come together.
    """
    if processes() == 1:
        yield Team()
        return
    import torch
    import torch.distributed as dist

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    with _ended_is_told():
        # For a few words between processes, which gloo passes on whatever the device is.
        store, rank, size = next(dist.rendezvous("env://", timeout=MEETING))
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=PATIENCE)
    if MET in os.environ:
        Path(os.environ[MET], str(rank)).touch()
    try:
        yield Team(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


@contextmanager
def _ended_is_told() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise GraphError(f"--stream: another process of this run ended before the windows were shared out. {GO_ON}"
                         ) from error  # fmt: skip


def end_with_parent() -> None:
    """Let no process outlive the one that began it; where torchrun ends it, say why in one sentence."""
    if threading.current_thread() is not threading.main_thread():
        return
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    if "TORCHELASTIC_RUN_ID" in os.environ:
        signal.signal(signal.SIGTERM, _ended)


def _ended(*_: Any) -> None:
    message = f"another process of this run ended, and torchrun ends all with it. {GO_ON}"
    raise Ended(message if first_to_speak() else "")


def first_to_speak() -> bool:
    """Whether no other process of torchrun's has come here before."""
    if "torch.distributed" not in sys.modules:  # in the midst of a start, where no library can be asked
        return os.environ.get("RANK") == "0"
    import torch.distributed as dist

    try:
        store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False,
                              timeout=timedelta(seconds=2))  # fmt: skip
        return store.add("steadyedit/said", 1) == 1
    except (AttributeError, RuntimeError, KeyError):
        return True
