"""Text from elsewhere (files of others, names in checkpoints) made fit for a terminal, a line, a spreadsheet."""

import unicodedata

NOTE = "note: "  # begins a command's last line that the browser shows beside the state of its run


def plain(text, most=300):
    """`text` as one line without control characters, which a terminal would obey, cut in the middle where it is longer than `most`."""
    text = str(text)
    if len(text) > most:
        text = f"{text[: most // 2]} ... {text[-(most // 3) :]}"
    return "".join("?" if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") else c for c in text)


def first_line(error):
    """The first line of what an error says; its kind, where it says nothing."""
    said = str(error).strip()
    return said.splitlines()[0] if said else type(error).__name__


def cell(value):
    """A value for a CSV file: a text that a spreadsheet would take for a formula gets an apostrophe."""
    if not isinstance(value, str):
        return value
    value = plain(value)
    return f"'{value}" if value.startswith(("=", "+", "-", "@")) else value
