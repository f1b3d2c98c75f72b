"""`python -m r2anker_hf` is the command `r2anker`, and `accelerate launch -m r2anker_hf` the same on several processes."""

from .cli import main

if __name__ == "__main__":
    main()
