"""Publishing to the Hub: what is staged, how it is sent, and how anyone checks it."""
