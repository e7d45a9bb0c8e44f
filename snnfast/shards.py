"""Several processes that share one evaluation (torch.distributed): who takes which images, and the exchange at the end."""

import os

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
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return True


def own_device(device):
    """The device of this process: of several GPUs, the one that `start` chose."""
    return torch.device("cuda", torch.cuda.current_device()) if world() > 1 and device.type == "cuda" and device.index is None else device


def stop():
    if started():
        distributed.destroy_process_group()


def share(numbers):
    """This process's part of a list: parts differ by one element at most, and each element is in exactly one."""
    me, many = rank(), world()
    return numbers[len(numbers) * me // many : len(numbers) * (me + 1) // many]


def gathered(value):
    """What every process gave, in the order of ranks, on every process."""
    if world() == 1:
        return [value]
    found = [None] * world()
    distributed.all_gather_object(found, value)
    return found
