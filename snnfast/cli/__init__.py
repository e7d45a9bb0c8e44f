"""The command `snnfast`."""
