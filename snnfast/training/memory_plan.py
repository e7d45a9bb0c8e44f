"""How much memory a training takes, from what one step on a few images keeps for its backward.

weights, their gradients, the optimiser's states         fixed
values that the backward needs                           B: counted on two small batches
gradients of the largest of them, products' copies       B
images on their way (loader, augmentation)               B
"""

import copy
import dataclasses

import torch
from torch.nn import functional as F

from snnfast.ops.carried import Tape, carrying
from snnfast.system import memory
from snnfast.training import time_trial
from snnfast.training.optimisers import STATES

IDLE = 128 << 20  # libraries' own
# Of what is kept and what is beside it: on a CPU blocks of other sizes than the freed ones, between which glibc's heap has gaps (measured on ResNets:
# peaks of 1.3 to 1.7 times the values, 1.0 times with blocks that are mapped one by one, which takes twice the time).
GAPS = {"cpu": 1.8, "cuda": 1.2}
BESIDE = 3  # largest values alive beside what is kept: a gradient, the one it is made of, a product's copy
ON_THEIR_WAY = 4  # batches of images: loaded, moved, augmented, of the next step
FEW = 2, 4  # images of the steps that are counted


@dataclasses.dataclass(frozen=True)
class TrainingPlan:
    """batch; bytes: estimated peak of the process; budget: what it has to stay below, or None; most: the largest batch that does; parts: bytes by
    what they are for."""

    batch: int
    bytes: int
    budget: int | None
    most: int | None
    parts: dict

    def __str__(self):
        parts = ", ".join(f"{name} {memory.told(size)}" for name, size in self.parts.items() if size)
        limit = "" if self.budget is None else f" of {memory.told(self.budget)}"
        return f"batches of {self.batch}, about {memory.told(self.bytes)}{limit} at most ({parts})"

    def check(self):
        """Refuses a batch that does not fit."""
        if self.budget is None or self.bytes <= self.budget:
            return
        fits = f"batches of {self.most} fit: --batch-size {self.most}" if self.most else "no batch fits"
        raise ValueError(
            f"training with batches of {self.batch} takes about {memory.told(self.bytes)}, and {memory.told(self.budget)} may be taken; {fits}"
        )


def plan(net, image, batch, optimiser="sgd", amp=None, device="cpu", budget=None, chunk=None, teacher=None) -> TrainingPlan:
    """The plan of a training on `device`. image: one of its images [1, ...]. amp: the dtype of autocast, or None. budget: bytes of the process, or
    None. chunk: steps of a DirectNetwork that are in memory at a time, or None. teacher: a network that answers each batch too, on `device`, or None.
    The network stays as it is, and so do random numbers."""
    few, many = (_of_a_step(net, image, B, amp, device, chunk) for B in FEW)
    gaps = GAPS["cuda" if torch.device(device).type == "cuda" else "cpu"]
    each, largest = (gaps * max(0, (b - a) / (FEW[1] - FEW[0])) for a, b in zip(few, many))
    constant = max(0, gaps * few[0] - FEW[0] * each)
    trained = sum(p.nbytes for p in net.parameters() if p.requires_grad)
    fixed = dict(
        {"in use": memory.used(device), "reserve": IDLE},  # the weights are in use already
        copies=0 if amp is None else trained // 2,  # of the weights, which autocast keeps
        gradients=trained,
        optimiser=STATES[optimiser] * trained
        + min(trained, BESIDE * max((p.nbytes for p in net.parameters()), default=0)),  # its own copies too
    )
    per_image = dict(kept=each, beside=BESIDE * largest, images=ON_THEIR_WAY * image.nbytes)
    per_image["teacher"] = 0 if teacher is None else gaps * BESIDE * _largest_value(teacher, image.to(device))
    fixed["kept"] = constant
    parts = {name: int(fixed.get(name, 0) + batch * per_image.get(name, 0)) for name in {**fixed, **per_image}}
    most = None if budget is None else int(max(0, budget - sum(fixed.values())) // max(1.0, sum(per_image.values())))
    return TrainingPlan(batch, sum(parts.values()), budget, most, parts)


@torch.no_grad()
def _largest_value(net, image):
    """Bytes of the largest value that a layer gives for an image [1, ...]."""
    found = [0]
    hooks = [m.register_forward_hook(lambda m, x, y: found.append(y.nbytes if isinstance(y, torch.Tensor) else 0)) for m in net.modules()]
    try:
        net(image)
    finally:
        for hook in hooks:
            hook.remove()
    return max(found)


def _of_a_step(net, image, B, amp, device, chunk):
    """(bytes that a step on B images keeps, beside the weights; those of the largest value). In chunks: of one of them and the states between all,
    or of the trial before the first step, which is in fp64, where that is more."""
    T = 1 if chunk is None else net.steps_of(image)
    if chunk is None or chunk >= T:
        return _kept(net, image, B, amp, device)[:2]
    kept, largest, states = _kept(net, image, B, amp, device, chunk)
    trial = (2 * size for size in _kept(net, image, B, None, device, min(chunk, time_trial.FEW))[:2])
    return tuple(map(max, (kept + -(-T // chunk) * states, largest), trial))


def _kept(net, image, B, amp, device, steps=None):
    """(bytes that a step on B images keeps for its backward, beside the weights; those of the largest; those of the states behind it). steps: of a
    DirectNetwork, in place of its T."""
    twin = copy.deepcopy(net).to(device).train()
    if steps is not None:
        twin.T = steps
    own = {t.untyped_storage().data_ptr() for t in (*twin.parameters(), *twin.buffers())}
    found: dict[int, int] = {}

    def pack(t):
        at = t.untyped_storage()
        if at.data_ptr() not in own:
            found[at.data_ptr()] = at.nbytes()
        return t.detach()  # t itself would hold the node that keeps it, for ever where it is the node's result

    image = image[:, :steps] if getattr(net, "frames", False) else image
    x = image.expand(B, *image.shape[1:]).to(device).clone()
    devices = [torch.device(device)] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        tape = Tape(None)  # what is carried from chunk to chunk
        with torch.autocast(torch.device(device).type, amp, enabled=amp is not None), carrying(None if steps is None else tape):
            y = twin(x)
            y = y if isinstance(y, torch.Tensor) else sum(y)  # of two last layers
            loss = F.cross_entropy(y, y.new_zeros(B, dtype=torch.long))
    del loss
    states = sum(t.nbytes for state in tape.after for t in state if isinstance(t, torch.Tensor))
    return sum(found.values()), max(found.values(), default=0), states
