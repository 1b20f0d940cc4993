import pytest
import torch
from soup_models import Classifier, fit_images, opened


@pytest.fixture(autouse=True)
def _one_thread():
    torch.manual_seed(0)
    torch.set_num_threads(1)


@pytest.fixture
def model():
    return Classifier()


@pytest.fixture
def ingredients(tmp_path, model):
    return opened(tmp_path / "ingredients", model, 5)


@pytest.fixture
def fit():
    return fit_images()
