"""`snnfast diagnose`: which layer of a converted checkpoint loses the accuracy, and why."""

from pathlib import Path

import torch

from snnfast import checks
from snnfast.cli import own_network
from snnfast.cli.console import plain_console
from snnfast.cli.evaluate import converted, load
from snnfast.evaluation.diagnosis import diagnose


def run(args, device):
    console = plain_console()
    checks.steps("T", args.T)
    checks.integer("images", args.images)
    net, _, data = load(args)
    own_network.check_converts(args, net, "diagnose compares a spiking network with the one that it was converted from")
    snn = converted(args, net, data).to(device)
    images = torch.stack([data.test[i][0] for i in range(min(args.images, len(data.test)))]).to(device)
    found = diagnose(snn, images, args.T)
    console.print(str(found), soft_wrap=True)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    for name in ("diagnosis.csv", "diagnosis.png"):
        found.save(out / name)
    console.print(f"wrote diagnosis.csv and diagnosis.png to {out}", soft_wrap=True)
