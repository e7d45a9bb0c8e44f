"""Tables for papers: LaTeX with the package booktabs."""

from snnfast.system.text import plain

_NAMED = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}


def escaped(text):
    """Any text as LaTeX shows it."""
    return "".join(_NAMED.get(c, "\\" + c if c in "_%&#${}" else c) for c in plain(text, 2000))


def tabular(heads, first, rows, notes=()):
    """A table: heads of the columns, rows above a rule (`first`) and below it, each a list of cells in LaTeX; notes: texts, as comments behind it."""
    line = lambda cells: " & ".join(cells) + r" \\"
    lines = [
        r"\begin{tabular}{r" + "c" * (len(heads) - 1) + "}",
        r"\toprule",
        line(heads),
        *map(line, first),
        r"\midrule",
        *map(line, rows),
    ]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", *(f"% {escaped(note)}" for note in notes)]) + "\n"
