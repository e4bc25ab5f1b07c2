"""The command line as it is called, for these tests too."""

from tests.cli.conftest import run  # noqa: F401  the fixture
