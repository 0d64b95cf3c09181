"""Student files with random weights."""

from pathlib import Path

from edgeseed.core.network import save_student
from edgeseed.core.preprocess import Preprocess
from edgeseed.core.student import StudentSpec
from edgeseed.distill import create_student


def save_untrained_student(path: Path, name: str, *, size: int, seed: int = 1) -> Path:
    """Writes the file of a student for square photos, without a head; returns its path.

    Args:
        path: Of the file.
        name: Of the timm architecture.
        size: Side of the photos, in pixels.
        seed: Of the weights.
    """
    network, architecture = create_student(name, seed=seed, image_size=size)
    spec = StudentSpec(
        architecture=architecture,
        preprocess=Preprocess(image_size=size, resize=size),
        embedding_dim=network.embedding_dim,
    )
    save_student(path, network, spec)
    return path
