"""Images that leave a run before its end: the others go on, with their states, in a run of a smaller batch."""

import torch

from snnfast.graph.rows import rows_of
from snnfast.nn.masking import rows_are
from snnfast.ops.layout import layout_of
from snnfast.runtime.run import Run


def without(run, kept):
    """A run of the images at the places `kept` [n] of the batch, at the step that `run` has reached. `run` must not be used afterwards."""
    numbers = (run.first if isinstance(run.first, torch.Tensor) else run.first + torch.arange(run.B, device=run.image.device))[kept]
    with rows_are(numbers):
        new = Run(run.gm, run.image[kept], run.method, run.clock, numbers, run.execution)  # computes the sizes of the smaller batch
    for node, value in run.fixed.items():  # take the values that were computed for all images together
        rows = rows_of(node)
        if isinstance(value, torch.Tensor) and node in run.plan.from_image and rows is not None and rows.fits(value, run.B):
            new.fixed[node] = rows.back(rows.by_image(value)[kept])
    of = lambda part: _of(part, kept, run.B)  # noqa: E731
    new.t = run.t
    new.states = {node: type(state)(*map(of, state)) for node, state in run.states.items()}
    new.layouts = {node: layout_of(state.v) for node, state in new.states.items()}  # the layout of each state
    for node, options in run.options.items():
        shape = run.states[node].v.shape  # options for each neuron, such as SRP's mask, have this shape
        new.options[node] = {key: of(value) if getattr(value, "shape", None) == shape else value for key, value in options.items()}
    for node, state in run.sums.items():
        new.sums[node] = run.gm.get_submodule(node.target).of_images(state, of)
    return new


def _of(part, kept, images):
    """The rows of the images `kept`, in the memory layout of `part`. A part that is no tensor is returned as it is."""
    if not isinstance(part, torch.Tensor):
        return part
    places = part.size(0) // images  # rows of each image
    found = torch.empty_like(part[: len(kept) * places])
    return found.copy_(part.unflatten(0, (images, places))[kept].flatten(0, 1))
