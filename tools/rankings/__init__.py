"""Which ranking of heads to use, measured on yesman and on SmolLM2: what is run, and the tables and figures of it."""
