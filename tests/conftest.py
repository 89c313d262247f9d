"""Settings and devices shared by all tests."""

import pytest
import torch

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
        ],
    ),
]


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Keep each worker on one thread, so that parallel workers do not fight for the cores."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", params=DEVICES)
def device(request):
    """A device to compute on, in full float32: TF32 has 10 bits, too few for the tolerances."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield torch.device(request.param)
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
