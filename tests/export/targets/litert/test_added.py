from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from edgeseed.export.added_outputs import parse_added
from edgeseed.export.target import WriteRequest
from edgeseed.export.targets.litert.added import add_outputs
from edgeseed.export.targets.litert.flatbuffer import ModelBuilder

pytest.importorskip("ai_edge_litert", reason="needs ai-edge-litert: pip install edgeseed[litert]")


def answers(asked: str, logits: list[float]) -> dict[str, Any]:
    """What LiteRT makes of a file of the added operators alone."""
    from ai_edge_litert.interpreter import Interpreter

    builder = ModelBuilder()
    given = builder.tensor("logits", (1, len(logits)), "float32")
    request = SimpleNamespace(
        added=parse_added([asked]), spec=SimpleNamespace(classes=tuple("abcd"))
    )
    outputs = add_outputs(builder, {"logits": given}, cast("WriteRequest", request))
    content = builder.finish(name="added", inputs={"logits": given}, outputs=outputs, metadata={})
    runner = Interpreter(model_content=content).get_signature_runner()
    found: dict[str, Any] = runner(logits=np.array([logits], np.float32))
    return found


def test_shares_add_up_and_the_best_classes_come_first() -> None:
    found = answers("probabilities,top2", [0.0, 2.0, 1.0, -1.0])
    shares = np.exp([0.0, 2.0, 1.0, -1.0])
    np.testing.assert_allclose(found["probabilities"][0], shares / shares.sum(), rtol=1e-5)
    assert found["top2_indices"].tolist() == [[1, 2]]
    np.testing.assert_allclose(
        found["top2_probabilities"][0], (shares / shares.sum())[[1, 2]], rtol=1e-5
    )


def test_the_best_classes_alone_have_probabilities_too() -> None:
    found = answers("top1", [3.0, 0.0, 0.0, 0.0])
    assert set(found) == {"top1_probabilities", "top1_indices"}
    assert found["top1_probabilities"][0] == pytest.approx(np.exp(3) / (np.exp(3) + 3), rel=1e-5)
