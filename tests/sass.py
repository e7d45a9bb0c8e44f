"""Reads machine code as cuobjdump prints it: how many loads a loop has on their way before it waits for the first of them.

Every instruction of sm_70 and newer carries control bits (Jia et al., "Dissecting the NVIDIA Volta GPU architecture via microbenchmarking",
2018): which of six barriers it sets when its result arrives, and which it waits for before it starts.
"""

import re

_CODE = re.compile(r"\s+/\*([0-9a-f]{4,5})\*/\s+(.*?);\s+/\* 0x[0-9a-f]{16} \*/\n\s+/\* 0x([0-9a-f]{16}) \*/")


def instructions(text):
    """(address, text, barrier set when it writes, mask of barriers waited for) of each instruction of one function."""
    for address, what, high in _CODE.findall(text):
        control = int(high, 16) >> 41
        yield int(address, 16), what, control >> 5 & 7, control >> 11 & 63


def loads_between_waits(text, load="LDG.E.EF"):
    """For each loop that has such loads: how many are issued before each wait for one of them, in order."""
    code = list(instructions(text))
    loops = []
    for address, what, *_ in code:
        back = re.search(r"BRA(?:\.\w+)* .*?0x([0-9a-f]+)", what)
        if back and int(back[1], 16) < address:
            loops.append((int(back[1], 16), address))
    found = []
    for first, last in loops:
        groups, many, pending = [], 0, set()
        for address, what, sets, waits in code:
            if not first <= address <= last:
                continue
            if many and any(waits >> barrier & 1 for barrier in pending):
                groups.append(many)
                many, pending = 0, set()
            if load in what:
                many += 1
                pending.add(sets)
        groups = [g for g in (*groups, many) if g]
        if groups:
            found.append(groups)
    return found
