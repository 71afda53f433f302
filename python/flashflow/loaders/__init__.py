"""Reading models from disk. Nothing here needs torch, except torch_weights.py."""
