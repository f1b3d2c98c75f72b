"""Publishing rankers, negatives and retrievers on the Hugging Face Hub."""
