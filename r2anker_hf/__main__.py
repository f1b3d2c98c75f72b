"""`python -m r2anker_hf` is the command `r2anker`, on several processes under `accelerate launch -m`."""

from .cli import main

if __name__ == "__main__":
    main()
