"""Patching again after tuning, on yesman and on SmolLM2: what is tuned and read, and the tables and figures of it."""
