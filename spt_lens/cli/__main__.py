"""`python -m spt_lens.cli`: the console script, where it is not installed."""

from spt_lens.cli.app import main

if __name__ == "__main__":
    main()
