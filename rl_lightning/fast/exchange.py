"""The mean over several processes; on one machine by memory that they share."""

import mmap
import os
import socket
import struct
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import reduce
from pathlib import Path
from typing import Self

import torch
import torch.distributed as dist
from torch import Tensor

from rl_lightning.fast import switch

COUNT = struct.Struct("q")  # numbers that a process brings, its word that they are there
ALIGNMENT = 64  # bytes, of a line of the cache
ROOM = 1 << 16  # bytes of each process to begin with
PATIENCE = 0.001  # seconds of asking again, before a process sleeps and has to be woken, which takes a third of that


def mean_of_processes(device: torch.device, machines: int) -> Callable[[Sequence[Tensor]], Tensor]:
    """How this run takes the mean over its processes; asked for by all of them at once.

    Args:
        device: whose numbers are exchanged.
        machines: that the processes run on.

    Returns:
        A function from the numbers of this process, tensors [n], [m], ..., to the mean of all, [n + m + ...].
    """
    can = device.type == "cpu" and machines == 1 and hasattr(socket, "send_fds") and switch.is_on()
    all_can = [can] * dist.get_world_size()
    dist.all_gather_object(all_can, can)
    return (meet() if all(all_can) else None) or mean_by_torch


def mean_by_torch(numbers: Sequence[Tensor]) -> Tensor:
    """The mean over all processes by torch's own exchange."""
    mean = torch.cat(list(numbers))
    dist.all_reduce(mean)
    return mean.div_(dist.get_world_size())


class MeanOnOneMachine:
    """The mean over the processes of one machine, in memory that they share.

    Gloo passes each exchange through threads of its own, which wait for the cores that the processes learn on: 2 to 3
    ms for the gradients of a small network, where this takes 0.3. Here each process puts its numbers into the memory,
    says so to the first, hears from it that all have, and takes the mean. Two places take turns, so that nobody writes
    where another one still reads: who has heard of the next exchange knows that all are done with this one.

    Args:
        rank: of this process.
        others: connections to the other processes in order of their ranks, in the first; in another the one to it.
        patience: seconds of asking again before a process sleeps.
    """

    def __init__(self, rank: int, others: Sequence[socket.socket], patience: float) -> None:
        self.rank, self._others, self._patience = rank, others, patience
        self._memory = torch.empty(2, 1, 0, dtype=torch.uint8)  # [places, processes, bytes]
        self._turn = 0

    def __call__(self, numbers: Sequence[Tensor]) -> Tensor:
        """The mean of all processes' numbers, tensors [n], [m], ..., as one [n + m + ...].

        Raises:
            DistNetworkError: where another process has ended.
            RuntimeError: where processes bring different numbers of numbers.
        """
        count = sum(part.numel() for part in numbers)
        dtype = reduce(torch.promote_types, {part.dtype for part in numbers})
        size = count * dtype.itemsize
        try:
            if size > self._memory.shape[-1]:
                self._meet(count)
                self._memory = self._shared(max(ROOM, -(-size // ALIGNMENT) * ALIGNMENT))
            self._turn ^= 1
            all_numbers = self._memory[self._turn, :, :size].view(dtype)  # [processes, n + m + ...]
            torch.cat(list(numbers), out=all_numbers[self.rank])
            self._meet(count)
        except ConnectionError as error:
            raise dist.DistNetworkError(f"another process has ended: {error}") from error
        first, second, *others = all_numbers.unbind()
        mean = first + second
        for other in others:
            mean += other
        return mean.div_(len(all_numbers))

    def __deepcopy__(self, memo: object) -> Self:
        """The copy of a learner is of the same processes."""
        return self

    def _meet(self, count: int) -> None:
        """Wait until all processes are here with as many numbers."""
        if self.rank == 0:
            heard = [_hear(other, self._patience) for other in self._others]
            if set(heard) != {count}:
                raise RuntimeError(f"processes exchange different numbers, {[count, *heard]}: give all one setting")
        for other in self._others:
            other.sendall(COUNT.pack(count))
        if self.rank != 0:
            _hear(self._others[0], self._patience)

    def _shared(self, room: int) -> Tensor:
        """Memory that the first process makes, [2, processes, room]."""
        if self.rank == 0:
            file = _new_memory(2 * (len(self._others) + 1) * room)
            for other in self._others:
                socket.send_fds(other, [b"\0"], [file])
        else:
            _, files, _, _ = socket.recv_fds(self._others[0], 1, 1)
            if not files:
                raise ConnectionResetError("it closed its connection")
            [file] = files
        memory = mmap.mmap(file, 0)
        os.close(file)
        return torch.frombuffer(memory, dtype=torch.uint8).view(2, -1, room)


def meet() -> MeanOnOneMachine | None:
    """Connect all processes with the first; None where one of them cannot."""
    rank, processes = dist.get_rank(), dist.get_world_size()
    patience = PATIENCE if processes <= _cores() else 0.0  # on a shared core another one could learn meanwhile
    with ExitStack() as stack:
        listener, place = None, [""]
        if rank == 0:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="rl_lightning-"))  # this user's alone
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            place = [str(Path(folder, "meet"))]
            try:
                listener.bind(place[0])
                listener.listen(processes)
            except OSError:  # a path too long for a socket
                place = [""]
        dist.broadcast_object_list(place)
        connection = None if rank == 0 else _connected(place[0])
        reached = [bool(place[0]) if rank == 0 else connection is not None] * processes
        dist.all_gather_object(reached, reached[0])
        if not all(reached):
            if connection is not None:
                connection.close()
            return None
        if connection is not None:
            connection.sendall(COUNT.pack(rank))
            return MeanOnOneMachine(rank, [connection], patience)
        assert listener is not None
        accepted = [listener.accept()[0] for _ in range(processes - 1)]
        by_rank = {_hear(other): other for other in accepted}
        return MeanOnOneMachine(rank, [by_rank[other] for other in range(1, processes)], patience)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _connected(place: str) -> socket.socket | None:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(place)
    except OSError:
        connection.close()
        return None
    return connection


def _hear(other: socket.socket, patience: float = 0.0) -> int:
    """The count that another process sends, waited for; with `patience`, in seconds, awake at first."""
    heard, tired = None, time.perf_counter() + patience
    while heard is None:
        with suppress(BlockingIOError):
            heard = other.recv(COUNT.size, socket.MSG_DONTWAIT if time.perf_counter() < tired else 0)
    if len(heard) < COUNT.size:
        raise ConnectionResetError("it closed its connection")
    return int(COUNT.unpack(heard)[0])


def _new_memory(size: int) -> int:
    """The descriptor of a file of zeros that has no name, so that it goes with its processes."""
    if hasattr(os, "memfd_create"):
        file = os.memfd_create("rl_lightning")
    else:
        with tempfile.TemporaryFile() as temporary:
            file = os.dup(temporary.fileno())
    os.ftruncate(file, size)
    return file
