"""Arrays in files: what was written comes back, and a broken file is one clear error."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from edgeseed.core.arrays import read_array, read_arrays
from edgeseed.core.errors import ArtifactError

NUMBERS: npt.NDArray[np.float32] = np.arange(6, dtype=np.float32).reshape(2, 3)


def test_an_array_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", NUMBERS)
    found = read_array(tmp_path / "a.npy")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, NUMBERS)


def test_arrays_come_back_by_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=NUMBERS, y=NUMBERS[0])
    found = read_arrays(tmp_path / "a.npz")
    assert set(found) == {"x", "y"}
    np.testing.assert_array_equal(found["y"], NUMBERS[0])


@pytest.mark.parametrize("read", [read_array, read_arrays])
def test_nothing_in_a_file_is_run(tmp_path: Path, read: Callable[[Path], object]) -> None:
    # A pickle runs code as it is loaded.
    objects = np.array([{"a": 1}], dtype=object)
    np.save(tmp_path / "a.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "a.npz", a=objects)
    path = tmp_path / ("a.npy" if read is read_array else "a.npz")
    with pytest.raises(ArtifactError, match=r"a.np[yz] cannot be read as arrays .*allow_pickle"):
        read(path)


@pytest.mark.parametrize("kept", [0, 5, 60, -20])
@pytest.mark.parametrize(("read", "name"), [(read_array, "a.npy"), (read_arrays, "a.npz")])
def test_a_file_that_was_cut_off_is_one_line(
    tmp_path: Path, read: Callable[[Path], object], name: str, kept: int
) -> None:
    np.save(tmp_path / "a.npy", NUMBERS)
    np.savez(tmp_path / "a.npz", x=NUMBERS)
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ArtifactError, match=f"{name} cannot be read as arrays") as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_one_array_is_not_taken_for_several_nor_several_for_one(tmp_path: Path) -> None:
    np.save(tmp_path / "one", NUMBERS)
    np.savez(tmp_path / "several", x=NUMBERS)
    with pytest.raises(ArtifactError, match="it holds one array"):
        read_arrays(tmp_path / "one.npy")
    with pytest.raises(ArtifactError, match="it holds several arrays"):
        read_array(tmp_path / "several.npz")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"nowhere\.npy cannot be read .*No such file"):
        read_array(tmp_path / "nowhere.npy")
