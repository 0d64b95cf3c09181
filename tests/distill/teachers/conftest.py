"""A file that any test of teachers may load."""

from pathlib import Path

import pytest
from support.teachers import random_network, save_checkpoint


@pytest.fixture
def plain_file(tmp_path: Path) -> Path:
    return save_checkpoint(tmp_path / "resnet.pth", random_network("test_resnet").state_dict())
