"""A network with ReLUs, as anybody trains it, as a spiking one: how many steps each method takes to answer as the network does, and at what energy.

python examples/few_steps.py few_steps.png
"""

import sys

import torch
from matplotlib.figure import Figure

import snnfast
from snnfast.conversion import methods

AT = (1, 2, 4, 8, 16)
METHODS = {
    "integrate-and-fire": methods.IF(),
    "ST-BIF": methods.STBIF(),
    "SRP, tau = 4": methods.SRP(tau=4),
    "power of two, m = 8": methods.SignedQuanta(m=8, ladder="power"),
    "quanta, m = 8": methods.SignedQuanta(m=8),
}


def network():
    layers, channels = [], (1, 16, 32, 32)
    for c, o in zip(channels, channels[1:]):
        layers += [torch.nn.Conv2d(c, o, 3, padding=1), torch.nn.BatchNorm2d(o), torch.nn.ReLU(), torch.nn.AvgPool2d(2)]
    return torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(4 * channels[-1], 10))


def main(path):
    torch.manual_seed(0)
    train, test = snnfast.data.digits(image_size=16)
    net = network()
    snnfast.training.fit(net, torch.utils.data.DataLoader(train, 64, shuffle=True), epochs=3, lr=0.05)
    agreement, energy = Figure(figsize=(11, 4), layout="constrained").subplots(1, 2)
    for name, method in METHODS.items():
        snn = snnfast.convert(net, method, calibrate=train.tensors[0][:500])
        report = snnfast.evaluate(snn, test, T=AT[-1], at=AT, ann=net, statistics=True)
        agreement.plot(report.at, report.agreement, "o-", label=name)
        energy.plot(report.at, [row["energy_ratio"] for row in report.energy], "o-", label=name)
    agreement.set(xlabel="T", ylabel="answers as the network, %", xscale="log", title=f"{len(test)} test images, ANN {report.ann:.1f} %")
    energy.set(xlabel="T", ylabel="energy, of the network's", xscale="log", yscale="log")
    for axes in (agreement, energy):
        axes.set_xticks(AT, AT)
        axes.grid(alpha=0.3)
    agreement.legend()
    agreement.figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "few_steps.png")
