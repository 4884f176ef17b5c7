"""The command line: a thin layer over the functions of the library. `spt-lens --help` lists the commands.

A file a command. Each command imports what it needs when it runs, so that help and refusals wait for no library.
"""

from spt_lens.cli.app import app, main

__all__ = ["app", "main"]
