from tests.benchmark.conftest import two_sets

__all__ = ["two_sets"]
