"""What `make docs` needs beside mkdocs.yml: pages and files from outside docs/, and docstrings as Markdown."""
