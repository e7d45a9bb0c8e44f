"""The machine below: files, memory, processes."""
