"""Networks as graphs: what a node is, and how nodes are replaced."""
