import pytest
import torch


@pytest.fixture
def one_thread():
    """For small products: a second thread takes longer to wake than to work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
