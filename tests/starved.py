"""`python starved.py BYTES ARGUMENTS...`: the command under an allocator that gives torch's operators no more than so many bytes at a time."""

import sys
import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Limit(TorchDispatchMode):
    def __init__(self, limit):
        super().__init__()
        self.limit, self.live, self.refused = limit, {}, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        for t in tree_leaves(found):
            if isinstance(t, torch.Tensor):
                self._note(t.untyped_storage())
        if sum(self.live.values()) > self.limit:
            self.refused += 1
            raise torch.OutOfMemoryError(f"the fake allocator holds {sum(self.live.values())} bytes of {self.limit}")
        return found

    def _note(self, storage):
        key = storage._cdata
        if key not in self.live:
            self.live[key] = storage.nbytes()
            weakref.finalize(storage, self.live.pop, key, None)


if __name__ == "__main__":
    from snnfast.cli.main import main
    from snnfast.evaluation.evaluation import Evaluation

    run, limit = Evaluation._batch, Limit(int(sys.argv[1]))

    def batch(self, *args):  # the run alone: what was loaded before it is not counted
        with limit:
            return run(self, *args)

    Evaluation._batch = batch
    code = main(sys.argv[2:])
    print(f"refused {limit.refused}")
    sys.exit(code)
