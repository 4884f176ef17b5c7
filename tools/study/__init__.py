"""The study on SmolLM2: its settings (`make study`), and what the pages show of a finished one's folder."""
