"""How the embedded model is made and measured: only for this repository, out of the wheel."""
