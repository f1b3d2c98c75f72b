"""Collections: a corpus, the queries of a split and their judgements, and how they are read."""
