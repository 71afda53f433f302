"""Training of GPTSmall. Nothing but the command line imports it."""
