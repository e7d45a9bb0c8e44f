"""Several processes that share one evaluation (torch.distributed): who takes which images, and the exchange at the end."""

import datetime
import os
import time

import torch
from torch import distributed


def started():
    return distributed.is_available() and distributed.is_initialized()


def rank():
    return distributed.get_rank() if started() else 0


def world():
    return distributed.get_world_size() if started() else 1


def start(device):
    """Joins the processes that `torchrun` started; True if it did. nccl on GPUs, each process on its own, gloo on CPUs."""
    if started() or "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return False
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # Processes meet again when the slowest has done its share.
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=datetime.timedelta(days=7))
    return True


def own_device(name):
    """The name of this process's device: "cuda" means the GPU with its number on this machine."""
    return f"cuda:{os.environ['LOCAL_RANK']}" if name == "cuda" and "LOCAL_RANK" in os.environ else name


def is_first_here():
    """Whether this is the first process on its machine, whose folder others may not see."""
    return int(os.environ.get("LOCAL_RANK", 0)) == 0 if started() else True


def stop():
    if started():
        time.sleep(
            0.2
        )  # gloo's threads let go of the last exchange a moment after it returns; leaving earlier aborted a process now and then
        distributed.destroy_process_group()


def share(numbers):
    """This process's part of a list: parts differ by one element at most, and each element is in exactly one."""
    me, many = rank(), world()
    return numbers[len(numbers) * me // many : len(numbers) * (me + 1) // many]


def agreed(what, value):
    """Raises on every process if they do not all have the same `value`."""
    values = gathered(value)
    if any(v != values[0] for v in values):
        raise ValueError(f"the processes see different {what}: {'; '.join(f'process {i}: {v}' for i, v in enumerate(values))}")


def gathered(value):
    """What every process gave, in the order of ranks, on every process."""
    if world() == 1:
        return [value]
    found = [None] * world()
    distributed.all_gather_object(found, value)
    return found
