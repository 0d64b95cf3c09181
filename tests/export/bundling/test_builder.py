import pytest
from support.export import tiny_preprocess

from edgeseed.core.errors import UsageError
from edgeseed.core.network import StudentNetwork
from edgeseed.export.bundling.builder import baseline_precision, matching_layers
from edgeseed.export.program import build_program
from edgeseed.export.targets import TARGETS


@pytest.mark.parametrize("name", TARGETS.names())
def test_every_target_has_a_float_precision_to_compare_with(name: str) -> None:
    target = TARGETS.load(name)
    assert baseline_precision(target) in target.parity_limit


@pytest.mark.slow
def test_layers_to_keep_are_named_by_pattern(network: StudentNetwork) -> None:
    program = build_program(network, tiny_preprocess())
    found = matching_layers(program, ["conv2d_1[0-2]?", "linear"])
    assert set(found) == {"conv2d_1", "conv2d_10", "conv2d_11", "conv2d_12", "linear"}
    assert found["linear"] == "asked for by --keep-float linear"
    with pytest.raises(UsageError, match=r"'conf2d_1' fits no layer; .* such as conv2d_1"):
        matching_layers(program, ["conf2d_1"])
    # It answered with names of arithmetic such as sub, which are no layers.
    with pytest.raises(UsageError, match=r"'nosuch' fits .* such as conv2d, conv2d_1, conv2d_2 "):
        matching_layers(program, ["nosuch"])
    # The network's own names, as `edgeseed explain` lists them.
    assert set(matching_layers(program, [r"blocks\.2\.0\.conv_exp", "head"])) == {
        "conv2d_4", "linear"
    }  # fmt: skip
    with pytest.raises(UsageError, match=r"such as blocks\.2\.0\.conv_exp"):
        matching_layers(program, [r"blocks.2.0.conv_epx"])
    with pytest.raises(UsageError, match="no regular expression"):
        matching_layers(program, ["conv2d_("])
