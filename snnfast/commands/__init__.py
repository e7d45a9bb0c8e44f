"""What the commands of `snnfast` do, one file each."""
