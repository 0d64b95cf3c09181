"""What every engine must be, whichever files are in runtime/engines."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.fake_engine import FakeEngine

from edgeseed.runtime.engine import Engine, EngineError
from edgeseed.runtime.engines import ENGINES


@pytest.mark.parametrize("name", ENGINES.names())
def test_an_engine_says_what_it_reads_and_where_it_runs(name: str) -> None:
    engine = ENGINES.load(name)

    assert issubclass(engine, Engine)
    assert engine.name == name
    assert engine.targets
    assert engine.units
    assert ENGINES.summary(name)


def test_listing_engines_imports_none_of_them() -> None:
    code = (
        "import sys; from edgeseed.runtime.engines import ENGINES; ENGINES.names();"
        "bad = {'onnxruntime', 'numpy', 'torch'} & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-P", "-c", code], check=True)


def test_the_fake_computes_what_its_file_says(tmp_path: Path) -> None:
    model = tmp_path / "model.json"
    model.write_text(json.dumps({"weights": [[1, 0, 0], [0, 2, 0]], "head": [[1, 1]]}))
    engine = FakeEngine.open(model, unit="cpu", threads=1)
    image = np.ones((1, 3, 4, 4), np.float32) * np.array([1, 2, 3]).reshape(1, 3, 1, 1)

    outputs = engine.infer({"image": image})

    np.testing.assert_array_equal(outputs["embedding"], [[1, 4]])
    np.testing.assert_array_equal(outputs["logits"], [[5]])
    engine.close()
    assert engine.closed


def test_the_fake_refuses_a_unit_that_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="it has: cpu, npu"):
        FakeEngine.open(tmp_path, unit="gpu", threads=1)
