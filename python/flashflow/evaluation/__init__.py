"""How good and how fast a model is: perplexity of a text, latency of generation."""
