"""Rankers: the cross-encoder, its listwise training, and how it is saved."""
