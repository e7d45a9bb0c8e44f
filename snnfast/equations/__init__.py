"""What is computed: neurons, activations, functions of rows, synapses. Each equation is written once, for torch and Triton."""
