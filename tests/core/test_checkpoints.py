"""Weights of other programs: containers, prefixes, and what does not fit; small dicts alone.

Real networks are read in tests/core/test_pretrained.py and tests/distill/teachers.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from edgeseed.core.checkpoints import (
    CONTAINERS,
    bare_name,
    below_common_prefix,
    describe_misfit,
    is_state,
    read_weights,
    some_of,
    unwrap,
)
from edgeseed.core.errors import ArtifactError, UsageError

STATE = {"conv.weight": torch.ones(2), "conv.bias": torch.zeros(2)}
PATH = Path("a.pth")


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth"])
def test_weights_come_back_as_they_were_saved(tmp_path: Path, name: str) -> None:
    if name.endswith(".pth"):
        torch.save(STATE, tmp_path / name)
    else:
        save_file(STATE, tmp_path / name)
    found = read_weights(tmp_path / name)
    assert is_state(found)
    assert all(torch.equal(found[key], value) for key, value in STATE.items())


def test_a_missing_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere\.pth does not exist or is not a file"):
        read_weights(tmp_path / "nowhere.pth")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.safetensors", b"x" * 20, "is not a whole checkpoint .*fetch it again"),
        ("a.pth", b"", "is not a whole checkpoint"),
        ("a.pth", b"PK\x03\x04cut", "is not a whole checkpoint"),
        ("a.pth", b"words", "is not a PyTorch checkpoint"),
    ],
)
def test_bytes_that_are_no_weights_are_one_line(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ArtifactError, match=message) as caught:
        read_weights(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [{}, {1: torch.ones(1)}, {"a": 1}, [torch.ones(1)], None])
def test_what_is_no_state_dict_is_told_from_one(value: Any) -> None:
    assert not is_state(value)
    assert is_state(STATE)


@pytest.mark.parametrize("container", CONTAINERS)
def test_every_container_is_opened_and_the_rest_has_a_reason(container: str) -> None:
    found, aside = unwrap({container: STATE, "epoch": 3, "optimizer": {}}, path=PATH)
    assert set(found) == set(STATE)
    reason = f"not needed beside {container!r}"
    assert aside == {"epoch": reason, "optimizer": reason}


def test_an_average_is_taken_before_what_it_averages() -> None:
    other = {name: value + 5 for name, value in STATE.items()}
    found, aside = unwrap({"student": other, "teacher": STATE}, path=PATH)
    assert torch.equal(found["conv.weight"], STATE["conv.weight"])
    assert set(aside) == {"student"}


def test_containers_lie_in_each_other_but_not_for_ever() -> None:
    found, _ = unwrap({"model": {"state_dict": STATE}}, path=PATH)
    assert set(found) == set(STATE)
    nested: Any = STATE
    for _ in range(6):
        nested = {"model": nested}
    with pytest.raises(ArtifactError, match=r"a\.pth holds the entries model, but no state dict"):
        unwrap(nested, path=PATH)


def test_what_holds_no_mapping_says_so() -> None:
    with pytest.raises(ArtifactError, match="holds no mapping, but no state dict was found"):
        unwrap(torch.ones(2), path=PATH)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_wrappers_of_training_are_taken_off_names(prefix: str) -> None:
    assert bare_name(f"{prefix}conv.weight") == "conv.weight"
    found, _ = unwrap({f"{prefix}{name}": value for name, value in STATE.items()}, path=PATH)
    assert set(found) == set(STATE)


def test_the_prefix_below_which_most_names_fit_is_found() -> None:
    weights = {f"net.trunk.{name}": value for name, value in STATE.items()}
    found = below_common_prefix({**weights, "net.head.weight": torch.ones(1)}, list(STATE))
    assert found.prefix == "net.trunk."
    assert set(found.weights) == set(STATE)
    assert set(found.others) == {"net.head.weight"}


def test_of_two_prefixes_that_fit_alike_the_average_is_taken() -> None:
    weights = {
        f"{prefix}.{name}": value for prefix in ("a_student", "teacher")
        for name, value in STATE.items()
    }  # fmt: skip
    assert below_common_prefix(weights, list(STATE)).prefix == "teacher."


def test_weights_that_fit_nowhere_are_left_as_they_are() -> None:
    found = below_common_prefix({"other": torch.ones(1)}, list(STATE))
    assert (found.prefix, set(found.weights), found.others) == ("", {"other"}, {})


def test_of_many_names_the_first_are_said() -> None:
    assert some_of(["a", "b"]) == "a, b"
    assert some_of([f"n{index}" for index in range(9)]) == "n0, n1, n2, n3, n4, n5 and 3 more"


def test_a_misfit_says_what_is_missing_unexpected_and_of_another_shape() -> None:
    network = torch.nn.Linear(3, 2)
    with pytest.raises(RuntimeError) as caught:
        network.load_state_dict({"weight": torch.ones(2, 5), "scale": torch.ones(1)})
    message = str(describe_misfit(caught.value, path=PATH, name="the network"))
    assert message.startswith("a.pth does not fit the network: 1 missing: bias; 1 unexpected: ")
    assert "1 of another shape: weight [2, 5] instead of [2, 3]" in message
    assert "\n" not in message
