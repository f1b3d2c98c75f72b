"""Publishing to the Hub: what is prepared, how it is sent, and how anyone checks it."""
