"""`snnfast diagnose`: which layer of a converted checkpoint loses the accuracy, and why."""

import torch

from snnfast import checks
from snnfast.cli import own_network
from snnfast.cli.console import plain_console
from snnfast.cli.evaluate import converted, load
from snnfast.cli.folders import can_draw, free
from snnfast.evaluation.diagnosis import diagnose


def run(args, device):
    console = plain_console()
    checks.steps("T", args.T)
    checks.integer("images", args.images)
    out = free(args.out, "diagnosis.csv", args.overwrite)
    why = "diagnose compares a spiking network with the one that it was converted from"
    net, _, data = load(args, check=lambda net: own_network.check_converts(args, net, why))
    snn = converted(args, net, data).to(device)
    images = torch.stack([data.test[i][0] for i in range(min(args.images, len(data.test)))]).to(device)
    found = diagnose(snn, images, args.T)
    console.print(str(found), soft_wrap=True)
    out.mkdir(parents=True, exist_ok=True)
    wrote = ["diagnosis.csv", "diagnosis.png"] if can_draw(console) else ["diagnosis.csv"]
    for name in wrote:
        found.save(out / name)
    console.print(f"wrote {' and '.join(wrote)} to {out}", soft_wrap=True)
