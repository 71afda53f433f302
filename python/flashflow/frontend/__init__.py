"""PyTorch modules -> graph.json, which the compiler's frontend reads."""
