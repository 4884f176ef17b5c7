"""What this project takes on a GPU, against TransformerLens, transformers and its own rivals: see `__main__.py`."""
