"""Tests in a browser, and what drives it. A package, so that its conftest does not take the place of tests/conftest.py,
which other tests import from."""
