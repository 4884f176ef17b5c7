"""What scores rest on, as a check of sixteen pairs found it: words hardly said, and hardly the behaviour."""

from __future__ import annotations

from spt_lens.data.check import PairsCheck
from spt_lens.statistics import Estimate

CHECK = PairsCheck(
    model_name="tiny",
    reads="first",
    n_pairs=16,
    sycophantic=Estimate(6 / 16, 0.18, 0.61, 16),
    truthful=Estimate(15 / 16, 0.72, 0.99, 16),
    median_gap=Estimate(0.36, 0.1, 0.6, 16),
    mean_gap=Estimate(0.43, 0.2, 0.7, 16),
    n_reversed=2,
    size_gap=0.36,
    n_mass=16,
    mass=(0.024, 0.031),
    least_mass=0.005,
    dtype="float32",
    step=2e-6,
)
