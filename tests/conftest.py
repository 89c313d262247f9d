"""Settings shared by all tests."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Keep each worker on one thread, so that parallel workers do not fight for the cores."""
    torch.set_num_threads(1)
