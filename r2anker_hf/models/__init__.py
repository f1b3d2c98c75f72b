"""Models: what every transformer here shares, from loading to attention, precision and checkpoints."""
