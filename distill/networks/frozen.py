"""The networks as methods see them: they take pixels in 0..1, and each normalises for itself."""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeseed.core.console import note
from edgeseed.core.errors import ConfigError
from edgeseed.core.network import StudentNetwork, StudentOutput
from edgeseed.core.preprocess import LUMA, Preprocess
from edgeseed.core.student import Architecture
from edgeseed.distill.batch import Batch
from edgeseed.distill.networks.features import extract
from edgeseed.distill.networks.teacher_cache import TeacherCache
from edgeseed.distill.teachers.network import Teacher, TeacherOutput
from edgeseed.distill.training.device import send


class PixelInput(nn.Module):
    """Turns pixels in 0..1 into a network's normalised input, at its size if that is fixed.

    Args:
        preprocess: The network's input; its channels, mean and std are used.
        size: Height and width that the network insists on; None takes any.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, preprocess: Preprocess, *, size: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.size = size
        self.channels = preprocess.channels
        # Not persistent: the file of the student states them in its preprocess block.
        self.register_buffer("mean", torch.tensor(preprocess.mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(preprocess.std).view(-1, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, C, H, W) in 0..1 -> (B, C', H', W') normalised, in the network's channels.

        A view has the colours that every network sees, and perhaps a fourth channel: a network of
        three leaves that out, one of one channel sees the colours as grey.
        """
        if self.channels < pixels.shape[1]:
            pixels = pixels[:, :3]
            pixels = _grey(pixels) if self.channels == 1 else pixels
        if self.size is not None and tuple(pixels.shape[-2:]) != self.size:
            pixels = F.interpolate(pixels, self.size, mode="bilinear", antialias=True)
        return (pixels - self.mean) / self.std


def _grey(pixels: Tensor) -> Tensor:
    weights = torch.tensor(LUMA, dtype=pixels.dtype, device=pixels.device)
    return (pixels * weights[:, None, None]).sum(1, keepdim=True)


class Student(nn.Module):
    """A network that is trained and kept, with all that its file must say.

    Args:
        network: Trunk, and head if it has one.
        architecture: What builds it again.
        preprocess: What its input is.
        classes: Names of the head's outputs; None without a head.
    """

    def __init__(
        self,
        network: StudentNetwork,
        *,
        architecture: Architecture,
        preprocess: Preprocess,
        classes: tuple[str, ...] | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.input = PixelInput(preprocess)
        self.architecture = architecture
        self.preprocess = preprocess
        self.classes = classes
        self.embedding_dim = network.embedding_dim
        self.image_size = preprocess.image_size

    def forward(self, pixels: Tensor) -> StudentOutput:
        """Embeds (B, 3, H, W) pixels in 0..1; logits too if there is a head."""
        return cast(StudentOutput, self.network(self.input(pixels)))

    def embed_with_map(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """The embedding and the map that it was pooled from, in one pass.

        Returns:
            (B, D) embedding, and (B, D', h, w) features; D' is `map_dim`.

        Raises:
            ConfigError: If the architecture has no such map.
        """
        embedding, features = extract(self.network.backbone, self.input(pixels))
        if features is None:
            raise ConfigError(
                f"{self.architecture.name} has no feature map; choose a setting that uses none"
            )
        return embedding, features

    @property
    def map_dim(self) -> int:
        """Channels of the map of `embed_with_map`."""
        return int(cast(Any, self.network.backbone).num_features)


class FrozenTeacher:
    """A teacher that only answers: in eval mode, without gradients, in the precision the run chose.

    Not an `nn.Module`, on purpose: a method may hold it without taking it into its checkpoints, its
    gradient buckets or its `train()`.

    Args:
        network: The teacher; it is put to eval mode and frozen here, whatever state it comes in.
        device: Where it runs.
        dtype: Of its matrix products; float32 runs it as it is.
        cache: Where answers to views that come again are kept; None without replay.
    """

    def __init__(
        self,
        network: Teacher,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        cache: TeacherCache | None = None,
    ) -> None:
        self.network = network.eval().requires_grad_(False).to(device)
        self.device = torch.device(device)
        self.dtype = dtype
        # Half-precision convolutions want channels last (ResNet-50 at 64 px on a CPU: 1.7 times);
        # in float32 the layout of the views is kept.
        self._layout = torch.preserve_format if dtype == torch.float32 else torch.channels_last
        self.network.to(memory_format=self._layout)
        self.embedding_dim = network.embedding_dim
        self.name = network.name
        self.heads = network.heads
        self._input = PixelInput(network.preprocess, size=network.preprocess.size).to(device)
        self._input_as_is = PixelInput(network.preprocess).to(device)
        self.cache = cache
        self._said_uncached = False

    def __call__(self, batch: Batch, view: int = 0) -> TeacherOutput:
        """What the teacher says of one view of a batch.

        Args:
            batch: The batch.
            view: Index into `batch.views`.

        Returns:
            Embedding (B, D) in float32 and, if it has one, its feature map (B, D, h, w).
            With a cache the map is None.
        """
        if self.cache is None or batch.replayed is None:
            return self._answer(batch.views[view])
        known = self.cache.get(batch.replayed, view)
        if known is None:
            known = self._answer(batch.views[view]).embedding
            self.cache.put(batch.replayed, view, known)
        return TeacherOutput(send(known, self.device), None)

    def answer(self, pixels: Tensor, *, resize: bool = True) -> TeacherOutput:
        """What the teacher says of any (B, 3, H, W) pixels in 0..1; never from the cache.

        Args:
            pixels: The pixels.
            resize: Whether to bring them to the size of the teacher's input; see `takes`.
        """
        if self.cache is not None and not self._said_uncached:
            self._said_uncached = True
            note(
                f"{self.name}: this method also asks for feature maps or small crops, which no "
                "cache holds; the teacher looks at them in every epoch"
            )
        return self._answer(pixels, resize=resize)

    @torch.no_grad()
    def _answer(self, pixels: Tensor, *, resize: bool = True) -> TeacherOutput:
        images = (self._input if resize else self._input_as_is)(pixels)
        reduced = self.dtype != torch.float32
        with torch.autocast(
            self.device.type, dtype=self.dtype if reduced else None, enabled=reduced
        ):
            images = images.to(memory_format=self._layout)
            output = cast(TeacherOutput, self.network(images))
        features = None if output.features is None else output.features.float()
        return TeacherOutput(output.embedding.float(), features)

    def check_sees_photos(self) -> None:
        """Runs one black photo through: a network may be too deep for photos of this size.

        Raises:
            ConfigError: If it cannot; the message names the sizes that can be changed.
        """
        preprocess = self.network.preprocess
        try:
            self._answer(self._black())
        except (RuntimeError, AssertionError, ValueError) as error:
            raise ConfigError(
                f"{self.name} cannot see photos of {preprocess.size_text} px: "
                f"{' '.join(str(error).split())[:160]}; use a larger --image-size, or "
                "--set views.teacher_size=N for the teacher alone"
            ) from error

    def _black(self) -> Tensor:
        return torch.zeros(1, *self.network.preprocess.shape, device=self.device)

    def takes(self, size: int) -> bool:
        """Whether it can look at pixels of another size than its input's as they are.

        Args:
            size: Side, in pixels.
        """
        try:
            channels = self.network.preprocess.channels
            self._answer(torch.zeros(1, channels, size, size, device=self.device), resize=False)
        except (RuntimeError, AssertionError, ValueError):
            return False
        return True

    @torch.no_grad()
    def project(self, embedding: Tensor, kind: str) -> Tensor:
        """One of the teacher's heads on its embedding, in float32.

        Args:
            embedding: (B, D) as this teacher gave it.
            kind: Key of `heads`, such as "projection" or "classifier".
        """
        with torch.autocast(self.device.type, enabled=False):
            return cast(Tensor, self.heads[kind](embedding))

    def map_dim(self) -> int:
        """Channels of the feature map.

        Raises:
            ConfigError: If the teacher gives none.
        """
        features = self._answer(self._black()).features
        if features is None:
            raise ConfigError(f"{self.name} gives no feature map; use a setting that needs none")
        return features.shape[1]

    def head_dim(self, kind: str) -> int:
        """Width of what `project` gives."""
        return self.project(torch.zeros(1, self.embedding_dim, device=self.device), kind).shape[1]
