"""A spiking network that must not trust a colour: invariant risk minimisation (IRM; Arjovsky et al., arXiv 1907.02893), and a similarity loss.

Digits below 5 or not, a quarter of the labels wrong; a colour agrees with 80 and 90 % of them in two training sets, with 10 % in the test set. After
150 steps ERM is right on 86 and 20 %, IRM on 78 and 39, the similarity loss on 81 and 35; other seeds differ by twenty. Shape alone gives 75.
"""

import sys

import torch
from matplotlib.figure import Figure
from torch.nn import functional as F

import snnfast


def coloured(images, digits, wrong, chance):
    """Images in one of two colour channels, which is that of the label but for a share `wrong`; labels, 0 or 1."""
    flips = lambda share: (torch.rand(len(digits), generator=chance) < share).long()
    label = (digits < 5).long() ^ flips(0.25)
    colour, bright = label ^ flips(wrong), (images - images.min()) / (images.max() - images.min())
    return torch.cat([bright * (colour == c).view(-1, 1, 1, 1) for c in (0, 1)], 1).flatten(1), label


def loss_of(kind, features, logits, labels, part):
    """Of both training sets. part: of the training that is done, 0 to 1."""
    risk, weight = sum(map(F.cross_entropy, logits, labels)) / 2, 200
    if kind == "IRM" and part > 0.4:  # how each risk changes with a factor on the logits: not at all where features are invariant
        slopes = [((z.softmax(1) - F.one_hot(y, 2)) * z).sum(1).mean() for z, y in zip(logits, labels)]
        risk = risk / weight + sum(g * g for g in slopes) / 2
    if kind == "similarity":
        a, b = (f[: min(map(len, features))] for f in features)
        fires = a.any(1) & b.any(1)  # a silent row has no direction, and an enormous gradient
        risk = risk + 10 * part * (1 - F.cosine_similarity(a[fires], b[fires])).mean()
    return risk


def accuracies(kind, sets, T=4, steps=150):
    """[steps, 2] in %: of the first training set, and of the test set, which is the last."""
    torch.manual_seed(0)
    first, second, last, fires = torch.nn.Linear(392, 32), torch.nn.Linear(32, 32), torch.nn.Linear(32, 2), snnfast.nn.LIF(surrogate="atan")
    optimiser, found = torch.optim.Adam([*first.parameters(), *second.parameters(), *last.parameters()], lr=2e-3, weight_decay=5e-4), []
    for step in range(steps):
        features = [fires(4 * second(fires((4 * first(x)).expand(T, -1, -1)))).mean(0) for x, _ in sets]
        logits, labels = [last(f) for f in features], [y for _, y in sets]
        found.append([100 * float((logits[i].argmax(1) == labels[i]).float().mean()) for i in (0, -1)])
        optimiser.zero_grad()
        loss_of(kind, features[:2], logits[:2], labels[:2], step / steps).backward()
        optimiser.step()
    return found


if __name__ == "__main__":
    (train, test), chance = snnfast.data.digits(image_size=14), torch.Generator().manual_seed(0)
    (x, y), figure = train.tensors, Figure(figsize=(11, 3.4), layout="constrained")
    sets = [coloured(x[::2], y[::2], 0.2, chance), coloured(x[1::2], y[1::2], 0.1, chance), coloured(*test.tensors, 0.9, chance)]
    for kind, axes in zip(("ERM", "IRM", "similarity"), figure.subplots(1, 3, sharey=True)):
        axes.plot(accuracies(kind, sets), label=["training", "test, other colours"])
        axes.set(title=kind, xlabel="step", ylabel="accuracy, %", ylim=(0, 100))
    axes.legend()
    figure.savefig(sys.argv[1] if len(sys.argv) > 1 else "colored_digits.png", dpi=110)
