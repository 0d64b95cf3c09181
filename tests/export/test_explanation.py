from pathlib import Path

import pytest

from edgeseed.core.errors import UsageError
from edgeseed.export import explain


def test_every_layer_is_told_with_its_error(made_int8: Path, tmp_path: Path) -> None:
    found = explain(made_int8, picture=tmp_path / "layers.png")
    assert len(found.layers) == 18
    assert all(row.computed == "int8" and row.error is not None for row in found.layers)
    assert 0 < max(row.error or 0 for row in found.layers) < 0.5
    assert "<- adds most" in found.to_text()
    assert (tmp_path / "layers.png").stat().st_size > 5000


def test_a_float_bundle_has_nothing_to_explain(made_fp32: Path) -> None:
    with pytest.raises(UsageError, match="no layer was quantized"):
        explain(made_fp32)
