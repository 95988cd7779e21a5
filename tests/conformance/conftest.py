"""Real servers, as for the tests of the whole."""

from tests.whole.conftest import address

__all__ = ["address"]
