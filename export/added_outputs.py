"""Outputs that an export adds to a student's own: probabilities, and the best classes.

```text
probabilities       (N, C) float32   softmax of the logits
topK_probabilities  (N, K) float32   the K largest of them, the largest first
topK_indices        (N, K) int32     their classes: lines of labels.txt, from 0
```

They are computed in float32 from the file's own float logits, in files of every precision. So they
are as near to the student as the logits are, and what is judged is that they follow from them.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseed.core.errors import UsageError
from edgeseed.core.names import split_names

PROBABILITIES = "probabilities"
OWN_OUTPUTS = ("embedding", "logits")
"""What a student gives itself."""
_TOP = re.compile(r"top([1-9][0-9]{0,5})")
# Of float32 with kernels that approximate exp: XNNPACK is 1e-6 off.
_PROBABILITY_LIMIT = 1e-4
_RATIO_LIMIT = 1e-4
# Near the end of float32, where probabilities are zero and any of them may come next.
_SMALLEST = 1e-30


@dataclasses.dataclass(frozen=True, slots=True)
class AddedOutput:
    """One name that `--add-outputs` takes: `probabilities`, or `top5`."""

    name: str
    k: int | None = None
    """How many of the best classes; None for the probability of each class."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs that it adds, in order."""
        if self.k is None:
            return (self.name,)
        return (f"{self.name}_probabilities", f"{self.name}_indices")


def parse_added(names: Sequence[str]) -> tuple[AddedOutput, ...]:
    """What was asked for; a name may hold several with commas between.

    Raises:
        UsageError: If one is unknown, or given twice.
    """
    asked = [part for text in names for part in (split_names(text) or [text])]
    found: list[AddedOutput] = []
    for name in asked:
        top = _TOP.fullmatch(name)
        if name != PROBABILITIES and top is None:
            raise UsageError(
                f"--add-outputs {name!r} is none of probabilities and topK, such as top5"
                f"{'; embedding and logits are always there' if name in OWN_OUTPUTS else ''}"
            )
        if asked.count(name) > 1:
            raise UsageError(f"--add-outputs: {name} is given twice; give each once")
        found.append(AddedOutput(name, None if top is None else int(top[1])))
    return tuple(found)


def check_added(added: Sequence[AddedOutput], classes: Sequence[str] | None) -> None:
    """Refuses outputs that a student cannot have.

    Raises:
        UsageError: If it has no classes, or fewer than were asked for.
    """
    for each in added:
        if classes is None:
            raise UsageError(
                f"--add-outputs {each.name}: this student has no classes, it gives an embedding "
                "alone; fine-tune it with labels first, or leave it out"
            )
        if each.k is not None and each.k > len(classes):
            raise UsageError(
                f"--add-outputs {each.name}: this student has {len(classes)} classes; ask for "
                f"top{len(classes)} at most"
            )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class AddedTensor:
    """One added output as an app reads it."""

    name: str
    width: int
    dtype: str
    semantics: str


def added_tensors(added: Sequence[AddedOutput], num_classes: int) -> tuple[AddedTensor, ...]:
    """Size, type and meaning of each added output, in order."""
    found = []
    for each in added:
        if each.k is None:
            meaning = "probability of each class: softmax of logits"
            found.append(
                AddedTensor(name=each.name, width=num_classes, dtype="float32", semantics=meaning)
            )
            continue
        values, indices = each.outputs
        found += [
            AddedTensor(name=values, width=each.k, dtype="float32",
                        semantics=f"the {each.k} largest probabilities, the largest first"),
            AddedTensor(name=indices, width=each.k, dtype="int32",
                        semantics="their classes: lines of labels.txt, from 0"),
        ]  # fmt: skip
    return tuple(found)


def added_problems(
    outputs: Mapping[str, npt.NDArray[Any]], added: Sequence[AddedOutput]
) -> list[str]:
    """How added outputs differ from what the logits beside them give.

    Args:
        outputs: All outputs of a file for some photos.
        added: What was asked for.
    """
    problems = []
    logits = outputs["logits"].astype(np.float64)
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    for each in added:
        if each.k is None:
            error = _largest(outputs[each.name] - shares)
            # Written this way round so that NaN fails.
            if not error <= _PROBABILITY_LIMIT:
                problems.append(
                    f"{each.name} is not the softmax of each photo's logits (off by {error:.2g}, "
                    f"one photo's add up to {_worst_sum(outputs[each.name]):.3g})"
                )
            continue
        values, indices = (outputs[name] for name in each.outputs)
        best = -np.sort(-shares, axis=1)[:, : each.k]
        error = _largest(values - best)
        if not error <= _PROBABILITY_LIMIT:
            problems.append(
                f"{each.outputs[0]} is not the {each.k} largest probabilities, the largest first "
                f"(off by {error:.2g})"
            )
        if mistake := _wrong_indices(indices, shares):
            problems.append(f"{each.outputs[1]} {mistake}")
    return problems


def _wrong_indices(indices: npt.NDArray[Any], shares: npt.NDArray[np.float64]) -> str:
    """What is wrong with the places of the largest shares; of equal ones any may come first."""
    k = indices.shape[1]
    # By their ratio: the smallest of five may be a millionth of the largest.
    size = np.log(np.maximum(shares, _SMALLEST))
    best = -np.sort(-size, axis=1)[:, :k]

    def fits(places: npt.NDArray[Any]) -> bool:
        if places.min() < 0 or places.max() >= size.shape[1]:
            return False
        found = np.take_along_axis(size, places.astype(np.int64), axis=1)
        distinct = all(len(set(row)) == k for row in places.tolist())
        return distinct and bool(np.all(np.abs(found - best) <= _RATIO_LIMIT))

    if fits(indices):
        return ""
    if fits(indices - 1):
        return "counts classes from 1, and lines of labels.txt are counted from 0"
    if fits(indices[:, ::-1]):
        return "has the largest last"
    return (
        f"does not name the {k} likeliest classes: photo 0 has {indices[0].tolist()}, meant were "
        f"{np.argsort(-shares[0], kind='stable')[:k].tolist()}"
    )


def _largest(difference: npt.NDArray[Any]) -> float:
    return float(np.abs(difference).max())


def _worst_sum(shares: npt.NDArray[Any]) -> float:
    sums = shares.sum(axis=1)
    return float(sums[np.abs(sums - 1).argmax()])
