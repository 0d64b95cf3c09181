"""What an error message tells the user to run can be run: commands, options, extras, modules."""

import ast
import dataclasses
import importlib.util
import re
import shlex
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import click
import pytest

from edgeseed.cli._main import cli, main
from edgeseed.core.errors import ConfigError

ROOT = Path(__file__).parents[2]
FOLDERS = ("edgeseed", "distill", "export", "runtime", "profiles")
# Options of other programs that messages speak of.
FOREIGN = {
    "--nproc-per-node",
    "--upgrade",
    "--force-reinstall",
    "--no-deps",
    "--user",
    "--system-site-packages",
}


@cache
def texts() -> tuple[tuple[str, str], ...]:
    """All texts in the code but docstrings, with where they are; "{}" stands for a value."""
    found = []
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            parts = {
                id(value)
                for node in ast.walk(tree)
                if isinstance(node, ast.JoinedStr)
                for value in node.values
            }
            notes = {
                id(node.value)
                for node in ast.walk(tree)
                if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            }
            for node in ast.walk(tree):
                where = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
                if isinstance(node, ast.JoinedStr):
                    found.append((where, "".join(map(_shown, node.values))))
                elif (
                    isinstance(node, ast.Constant)
                    and isinstance(node.value, str)
                    and id(node) not in parts | notes
                ):
                    found.append((where, node.value))
    return tuple(found)


def _shown(value: ast.expr) -> str:
    return str(value.value) if isinstance(value, ast.Constant) else "{}"


@cache
def options() -> dict[str, set[str]]:
    """Command -> its options."""
    context = click.Context(cli)
    found = {}
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        found[name] = {opt for parameter in command.params for opt in parameter.opts} | {"--help"}
    return found


def commands(text: str) -> Iterator[list[str]]:
    """The calls of edgeseed in a text: behind backticks, or a line that starts with it."""
    for quoted in re.findall(r"`([^`]*\bedgeseed [a-z][^`]*)`", text):
        call = quoted.partition("edgeseed ")[2].replace("...", "").replace("{}", "X")
        yield shlex.split(call.replace("'", ""))


def test_commands_that_messages_name_exist_and_take_the_options_named() -> None:
    count = 0
    for where, text in texts():
        for name, *words in commands(text):
            count += 1
            assert name in options() or name == "Xs", f"{where}: edgeseed {name}"
            for word in words:
                if word.startswith("--") and name in options():
                    option = word.partition("=")[0]
                    assert option in options()[name], f"{where}: edgeseed {name} {option}"
    assert count > 20


def _parsed(name: str, words: list[str]) -> dict[str, object]:
    """What click makes of a call, without running it; raises where a word does not fit."""
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    context = click.Context(command, info_name=name, resilient_parsing=False)
    parser = command.make_parser(context)
    try:
        values, _, _ = parser.parse_args(args=list(words))
    except click.BadOptionUsage:  # its value was "..."
        values, _, _ = parser.parse_args(args=[*words, "X"])
    found: dict[str, object] = {}
    for parameter in command.params:
        if parameter.name in values and isinstance(parameter.type, click.Choice | click.IntRange):
            value = values[parameter.name]
            if not _is_placeholder(str(value)):
                found[str(parameter.name)] = parameter.type.convert(value, parameter, context)
    return found


def _is_placeholder(text: str) -> bool:
    """`N`, `NAME`, `DIR` and what stood for a value in the message."""
    return text.strip("'\"") == "X" or re.sub(r"[^A-Za-z]", "", text).isupper()


def test_calls_that_messages_name_are_parsed_by_their_command() -> None:
    count = 0
    for where, text in texts():
        for name, *words in commands(text):
            if name not in options():
                continue  # `edgeseed {kind}s`: see below
            try:
                _parsed(name, words)
            except click.UsageError as error:
                raise AssertionError(
                    f"{where}: edgeseed {name} {' '.join(words)}: {error}"
                ) from error
            count += 1
    assert count > 20


SETTING = re.compile(r"--set[ =]([a-z_]+(?:\.[a-z_]+)?)=")


@cache
def settings() -> set[str]:
    """All that `--set` takes anywhere: fields of methods, of the recipe, of the views, ..."""
    # Here, for they take seconds: most of this file needs the commands alone.
    from edgeseed.distill.data.views import ViewSettings
    from edgeseed.distill.evaluation.knn import KnnSettings
    from edgeseed.distill.evaluation.linear import LinearSettings
    from edgeseed.distill.methods import METHODS, load_method
    from edgeseed.distill.training.recipe import Recipe
    from edgeseed.distill.training.settings import StudentSettings
    from edgeseed.distill.training.trainer import TrainingConfig
    from edgeseed.export.quantize.config import QuantizeConfig
    from edgeseed.export.targets import TARGETS
    from edgeseed.export.targets.tensorrt.target import TensorRTOptions

    found = set()
    sections: dict[str, Any] = {
        "recipe": Recipe, "views": ViewSettings, "training": TrainingConfig,
        "student": StudentSettings, "knn": KnnSettings, "linear": LinearSettings,
    }  # fmt: skip
    for section, kind in sections.items():
        found |= {f"{section}.{field.name}" for field in dataclasses.fields(kind)}
    for name in METHODS.names():
        found |= {field.name for field in dataclasses.fields(load_method(name).Config)}
    for name in TARGETS.names():
        found |= set(TARGETS.load(name).options)
    found |= {field.name for field in dataclasses.fields(QuantizeConfig)}
    return found | {field.name for field in dataclasses.fields(TensorRTOptions)}


def test_settings_that_messages_name_exist() -> None:
    count = 0
    for where, text in texts():
        for name in SETTING.findall(text):
            count += 1
            assert name in settings() | {"field"}, f"{where}: --set {name}=..."
    assert count >= 5


def test_addresses_of_devices_that_messages_name_are_read() -> None:
    from edgeseed.runtime.devices import open_device

    count = 0
    for where, text in texts():
        if text.startswith("--device "):
            continue  # it refuses what it quotes
        for address in re.findall(r"--device ((?:ssh|adb|browser|host)[^\s'\"`;,)]*)", text):
            filled = address.replace("{}", "board").rstrip(".:")
            if any(word in address for word in ("[", "HOST", "PATH", "ADDRESS", "SERIAL", "{}{}")):
                filled = re.sub(r"\[[^\]]*\]", "", filled)
                for word in ("HOST", "ADDRESS", "SERIAL"):
                    filled = filled.replace(word, "board")
            if address.endswith(("{}", "=")) and not filled.endswith("board"):
                continue  # it quotes what was given
            try:
                open_device(filled)
            except ConfigError as error:
                if "{}" not in address:  # a message may quote the address that it refuses
                    raise AssertionError(f"{where}: --device {address}: {error}") from error
            count += 1
    assert count >= 3


def test_options_that_messages_name_exist() -> None:
    known = set().union(*options().values()) | FOREIGN
    for where, text in texts():
        if where.startswith(
            (
                "runtime/runners",
                "export/apps",
                "runtime/devices",
                "runtime/engines",
                "edgeseed/core/svg",
            )
        ):
            continue  # words of adb, npm, gradle and trtexec, and colours of a style sheet
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", text):
            if len(text) > len(option) + 3:  # a message, not a word of some command line
                assert option.rstrip("-") in known, f"{where}: {option} in {text[:80]!r}"


def test_extras_that_messages_name_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = set(project["project"]["optional-dependencies"])
    for where, text in texts():
        for extra in re.findall(r"edgeseed\[(\w+)\]", text):
            assert extra in extras, f"{where}: edgeseed[{extra}]"
    for path in (ROOT / "edgeseed").rglob("*.py"):
        for extra in re.findall(r"extra=\"(\w+)\"", path.read_text(encoding="utf-8")):
            assert extra in extras, f"{path}: {extra}"


def test_modules_that_messages_tell_to_run_exist() -> None:
    # `torchrun ... -m edgeseed.cli` was advised, and does not run.
    for where, text in texts():
        for module in re.findall(r"-m (edgeseed[\w.]*)", text):
            spec = importlib.util.find_spec(module)
            assert spec is not None, f"{where}: {module}"
            is_package = spec.submodule_search_locations is not None
            runs = importlib.util.find_spec(f"{module}.__main__") if is_package else spec
            assert runs is not None, f"{where}: -m {module}"


@pytest.mark.parametrize(
    ("words", "message", "remedy"),
    [
        (["distil"], "did you mean 'distill'", ["distill", "--help"]),
        (["distill", "--help-me"], "No such option", ["distill", "--help"]),
        (["export", "nowhere.safetensors", "--out", "x"], "does not exist", ["export", "--help"]),
        (["export", "resnet81", "--out", "x"], "`edgeseed students` lists", ["students"]),
        (["devices", "--help"], "Usage", ["devices"]),
    ],
)
def test_a_remedy_that_is_followed_works(
    words: list[str],
    message: str,
    remedy: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(words)
    told = capsys.readouterr()
    assert message in told.err + told.out
    with pytest.raises(SystemExit) as ended:
        main(remedy)
    assert ended.value.code == 0
