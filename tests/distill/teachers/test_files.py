"""Files of teachers: students, checkpoints, and what is neither."""

import argparse
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.teachers import (
    SIZE,
    check_teacher,
    random_images,
    random_network,
    save_checkpoint,
)
from torch import nn

from edgeseed.core.errors import (
    ArtifactError,
)
from edgeseed.core.network import save_student
from edgeseed.core.preprocess import Preprocess
from edgeseed.core.student import StudentSpec
from edgeseed.distill.networks.students import create_student
from edgeseed.distill.teachers import load_teacher


def test_a_student_teaches_with_its_own_preprocess_and_classes(tmp_path: Path) -> None:
    network, architecture = create_student("test_efficientnet", seed=0, image_size=SIZE)
    network.head = nn.Linear(network.embedding_dim, 3)
    preprocess = Preprocess(image_size=SIZE, resize=72, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    spec = StudentSpec(
        architecture=architecture,
        preprocess=preprocess,
        embedding_dim=network.embedding_dim,
        classes=("cat", "dog", "eel"),
    )
    path = tmp_path / "student.safetensors"
    save_student(path, network, spec)
    teacher = load_teacher(str(path))
    assert (teacher.preprocess, teacher.classes) == (preprocess, ("cat", "dog", "eel"))
    assert teacher.head is not None
    expected = network.eval()(random_images())
    torch.testing.assert_close(teacher(random_images()).embedding, expected.embedding)
    torch.testing.assert_close(teacher.head(expected.embedding), expected.logits)


class _Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_a_hostile_pickle_is_refused_before_it_runs(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    path = save_checkpoint(
        tmp_path / "evil.pth", {"state_dict": {"w": torch.zeros(1)}, "args": _Hostile(trap)}
    )
    with pytest.raises(ArtifactError, match="holds more than weights: it wants to load"):
        load_teacher(f"test_vit={path}")
    assert not trap.exists()


def test_options_and_counters_beside_the_weights_are_harmless(tmp_path: Path) -> None:
    network = random_network("test_resnet")
    content = {
        "state_dict": network.state_dict(),
        "args": argparse.Namespace(data=Path("x"), lr=np.float64(0.1)),
        "best_acc1": np.float32(71.1),
        "epoch": np.int64(3),
    }
    check_teacher(
        load_teacher(
            f"test_resnet={save_checkpoint(tmp_path / 'c.pth', content)}", image_size=SIZE
        ),
        network,
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"not a checkpoint", "not a PyTorch checkpoint"), (b"", "not a whole checkpoint")],
)
def test_other_files_are_named_as_such(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "file.pth"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=message):
        load_teacher(f"test_vit={path}")


def test_a_truncated_checkpoint_is_named_as_such(plain_file: Path) -> None:
    plain_file.write_bytes(plain_file.read_bytes()[:5000])
    with pytest.raises(ArtifactError, match="truncated"):
        load_teacher(f"test_resnet={plain_file}")


def test_a_file_without_weights_lists_what_it_holds(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="the entries epoch, lr, but no state dict"):
        load_teacher(f"test_vit={save_checkpoint(tmp_path / 'e.pth', {'epoch': 1, 'lr': 0.1})}")
