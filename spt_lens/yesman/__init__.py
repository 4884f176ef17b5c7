"""The embedded example: a small model that gives in, its recipe, its behaviour and its demo."""

from spt_lens.yesman.behaviour import Yesman

__all__ = ["Yesman"]
