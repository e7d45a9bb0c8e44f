"""Whether a network's time can be cut: tried before its first run in chunks, on a copy in fp64, where rounding moves no spike."""

import contextlib
import copy
import weakref

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.utils._pytree import tree_map

from snnfast.ops import carried
from snnfast.training.boundaries import Held, random_state

FEW = 4  # steps whose gradients are compared
EXACT = 1e-5  # share by which sums may differ on a copy in fp64, some of whose layers may compute in fp32
AT_MOST = 0.05  # and outputs in which rounding may have moved a spike: of less precise copies, and of a chunk that runs again

_passed: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # network -> all that it was made of when it passed


class Refused(ValueError):
    """What the trial found."""


def differ(a: Tensor, b: Tensor, share: float = AT_MOST) -> bool:
    """Whether the sum of all differences is more than this share of the sum of all sizes."""
    if a.shape != b.shape:
        return True
    if torch.equal(a, b):
        return False
    a, b = (torch.nan_to_num(t.double()) for t in (a, b))
    return bool((a - b).abs().sum() > share * torch.maximum(a.abs(), b.abs()).sum())


def check_leaves(tensors, known):
    """Refuses what has a gradient and is none of the known tensors: it would get none."""
    known, seen, todo = {id(t) for t in known}, set(), [t.grad_fn for t in tensors]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None and id(leaf) not in known:
            raise Refused(f"net uses a tensor of shape {tuple(leaf.shape)} that has a gradient and is none of its parameters")
        todo += [following for following, _ in node.next_functions]


def try_cuts(run, x):
    """Refuses a network that gives something else when its time is cut; tried once, until it is made of something else."""
    made_of = torch.is_grad_enabled(), run.chunk, run.T, tuple((name, type(m), m.training) for name, m in run.net.named_modules())
    if made_of in _passed.get(run.net, ()):
        return
    keep = torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t)  # a checkpoint outside does not count what is saved here
    devices = [x.device] if x.device.type == "cuda" else []
    with torch.inference_mode(False), torch.random.fork_rng(devices=devices), keep:
        told = _tried_in_fp64(run, x, made_of[0])
        if told is None and any(norm.running_mean is None for norm in run.norms):
            return  # a batch norm that never keeps statistics cannot be asked for the same numbers twice
        if told is None:
            with _as_it_was(run.net):
                told = _tried_on(run.net, run, x, x.dtype, AT_MOST, made_of[0])
    if told:
        _passed.setdefault(run.net, set()).add(made_of)


def _tried_in_fp64(run, x, graded):
    """What `_tried_on` says of a copy in fp64, or None where the network has none, or wants its own dtype."""
    try:
        net = copy.deepcopy(run.net)
        for m in net.modules():
            if isinstance(m, _BatchNorm) and m.running_mean is None:  # of the batch it would say other numbers of other cuts
                like = next(net.parameters())
                m.running_mean, m.running_var = like.new_zeros(m.num_features), like.new_ones(m.num_features)
        return _tried_on(net.double(), run, x, torch.float64, EXACT, graded)
    except Refused:
        raise
    except Exception:  # of any kind: what is copied, and run, are other people's objects
        return None


@contextlib.contextmanager
def _as_it_was(net):
    """A network that is tried itself has the states, modes and buffers that it had before."""
    held, training, buffers = Held(net).take(), {m: m.training for m in net.modules()}, [(b, b.detach().clone()) for b in net.buffers()]
    try:
        yield
    finally:
        Held(net).put(held)
        for m, was in training.items():
            m.training = was
        with torch.no_grad():
            for b, was in buffers:
                if not torch.equal(b, was):
                    b.copy_(was)


def _tried_on(net, run, x, dtype, share, graded):
    """Whether it said anything: outputs that are all the same do not. graded: whether gradients are compared too."""
    for m in net.modules():
        if isinstance(m, (_BatchNorm, _DropoutNd)):
            m.training = False
    twin, few, many = run.of(net), min(run.T, max(2, min(run.chunk, FEW))), min(run.T, run.chunk + FEW)
    steps = x.detach() if run.constant else x.detach()[: max(few, many)]
    steps = steps.to(dtype) if steps.dtype != dtype else steps.clone()
    held = Held(net).take()
    if net is not run.net:
        held = tree_map(lambda t: t.to(dtype) if isinstance(t, Tensor) and t.is_floating_point() else t, held)
    trial = _Trial(twin, steps, (None, held), share)
    if trial.draws(few):
        net.eval()  # what draws in training can be compared without
    trial.outputs(few, few // 2)
    if many > few:
        trial.outputs(many, run.chunk)
    if graded:
        trial.gradients(few)
    return trial.told


class _Trial:
    """A network, some of its steps and the state it starts from."""

    def __init__(self, run, x, began, share):
        self.run, self.x, self.began, self.share, self.told = run, x, began, share, False

    def _pieces(self, x, *lengths):
        """The outputs of steps that are run in pieces of these lengths, one after the other."""
        state, out, at = self.began, [], 0
        for length in lengths:
            y, state = self.run.steps(x if self.run.constant else x[at : at + length], length, state)
            out.append(y)
            at += length
        return torch.cat(out)

    def _whole(self, t):
        """The outputs of t steps in one piece, by a network that changes nothing but them."""
        norms = {id(b) for norm in self.run.norms for b in norm.buffers()}
        buffers = [(name, b, b._version) for name, b in self.run.net.named_buffers() if id(b) not in norms]
        given = self.x._version
        y = self._pieces(self.x, t)
        if self.x._version != given:
            raise Refused("net changes its input in place: it would change x, once more for each run of a chunk")
        for name, b, version in buffers:
            if b._version != version:
                raise Refused(
                    f"{name} is a buffer that net changes when it runs: each chunk would change it, and once more in the backward"
                )
        return y

    @torch.no_grad()
    def outputs(self, t, first):
        """Refuses outputs of t steps that are others when they are cut behind the first ones."""
        whole = self._whole(t)
        self.told = self.told or (whole.numel() > 0 and bool(whole.min() != whole.max()))
        if differ(whole, self._pieces(self.x, first, t - first), self.share):
            self.refuse(t, first)

    @torch.no_grad()
    def draws(self, t):
        """Whether the network draws random numbers, so that no two runs are alike."""
        before = random_state(self.x.device)
        self._whole(t)
        return not all(map(torch.equal, before, random_state(self.x.device)))

    def gradients(self, t):
        """Refuses gradients that are others when t steps are cut: of a time embedding that starts at 0, for one."""
        parameters, found = [p for p in self.run.net.parameters() if p.requires_grad], []
        with torch.enable_grad():
            for lengths in ((t,), (t // 2, t - t // 2)):
                x = self.x.detach().clone().requires_grad_()
                y = self._pieces(x if self.run.constant else x[:t], *lengths)
                if not y.requires_grad:
                    return
                check_leaves([y], [x, *parameters])
                weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(y)
                with carried.closed():
                    gradients = torch.autograd.grad((y * weights).sum(), [x, *parameters], allow_unused=True)
                found.append([torch.zeros(()) if g is None else g.detach().double().cpu() for g in gradients])
        largest = max(float(torch.nan_to_num(g).abs().max()) for g in found[0] if g.numel())
        for a, b in zip(*found):
            off = torch.nan_to_num(a - b).abs()
            if off.numel() and float(off.max()) > self.share * largest:
                self.refuse(t, t // 2, "gradients")

    def refuse(self, t, first, what="outputs"):
        raise Refused(
            f"the {what} of {t} steps are others than those of {first} and {t - first}: net takes steps together, or holds a state that is "
            "neither snnfast's nor SpikingJelly's"
        )
