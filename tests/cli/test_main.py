"""The command line as a contract: help, errors, exit codes, JSON, and the options scripts use."""

import inspect
import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from edgeseed import convert, distill, export, quickstart, recommend, runtime
from edgeseed.cli._main import cli, main
from edgeseed.distill.methods import load_method
from edgeseed.distill.training.settings import build_settings

CALLS: dict[str, Callable[..., Any]] = {
    "quickstart": quickstart.quickstart, "distill": distill.distill, "pretrain": distill.pretrain,
    "finetune": distill.finetune, "evaluate": distill.evaluate, "export": export.export,
    "verify": export.verify, "build": runtime.build, "profile": runtime.profile,
    "compare": runtime.compare, "embed": export.embed, "gallery": export.gallery,
    "convert": convert.convert, "recommend": recommend.recommend,
}  # fmt: skip
COMMANDS = cli.list_commands(click.Context(cli))


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    code = "from edgeseed.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-P", "-c", code, *arguments], capture_output=True, text=True, check=False
    )


def test_no_help_shows_the_marks_that_format_it() -> None:
    group = CliRunner().invoke(cli, ["--help"]).output
    assert "\\b" not in group
    assert "photos + teacher -> distill -> student.safetensors -> export" in group


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_and_json(command: str) -> None:
    result = CliRunner().invoke(cli, [command, "--help"])
    assert result.exit_code == 0
    assert "--json" in result.output
    text = cli.get_command(click.Context(cli), command)
    assert text is not None
    assert text.help


def examples(name: str) -> list[list[str]]:
    """The command lines below "Examples:" in a command's help, without `edgeseed`."""
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    text = (command.epilog or "").partition("Examples:")[2].replace("\\\n", " ")
    return [shlex.split(line)[1:] for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_example_in_a_help_is_a_call_that_the_command_takes(command: str) -> None:
    # The help of distill advised --set teacher_temperature, which seed calls tau_teacher.
    lines = examples(command)
    assert lines
    for name, *arguments in lines:
        called = cli.get_command(click.Context(cli), name)
        assert called is not None
        context = called.make_context(name, arguments)
        if name in ("distill", "pretrain"):
            build_settings(
                load_method(context.params["method"]),
                name=context.params["method"],
                options={},
                overrides=context.params["settings"],
                config=None,
            )


@pytest.mark.parametrize("command", sorted(CALLS))
def test_every_option_is_an_argument_of_the_python_call(command: str) -> None:
    found = cli.get_command(click.Context(cli), command)
    assert found is not None
    options = {parameter.name for parameter in found.params} - {"as_json"}
    # `verify` of an app's module is a function of its own, verify_module.
    options -= {"verify": {"origin"}}.get(command, set())
    arguments = set(inspect.signature(CALLS[command]).parameters)
    # Several bundles, or several rounds, are the function profile_in_turns.
    options -= {"profile": {"repeat"}}.get(command, set())
    renamed = {"export": {"settings": "options"}, "profile": {"bundles": "bundle"}}.get(command, {})
    assert {renamed.get(name, name) for name in options} <= arguments


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from edgeseed.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as error: assert error.code == 0\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'numpy', 'timm', 'rich', 'PIL'}\n"
        "heavy &= set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-P", "-c", code], check=True, capture_output=True)


def test_every_commands_help_imports_no_torch() -> None:
    code = (
        "import sys\n"
        "from edgeseed.cli import main\n"
        "try: main([sys.argv[1], '--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'onnx'} & set(sys.modules)\n"
    )
    for command in ("distill", "export", "profile", "quickstart"):
        subprocess.run([sys.executable, "-P", "-c", code, command], check=True, capture_output=True)


def test_the_options_that_scripts_rely_on_are_there() -> None:
    expected = {
        "quickstart": "--out --seed --json",
        "distill": "--method --teacher --student --peer --activation --drop-se --data --out "
        "--epochs --batch-size --image-size --lr --seed --devices --precision --set --config "
        "--resume --during --labels --json",
        "finetune": "--data --test-data --labels --projection --out --epochs --batch-size "
        "--image-size --lr --seed --devices --precision --set --config --resume --json",
        "pretrain": "--method --model --activation --drop-se --data --out --epochs --batch-size "
        "--image-size --lr --seed --devices --precision --set --config --resume --during --json",
        "evaluate": "--data --test-data --protocol --labels --save-lists --save-classifier "
        "--save-metrics --baseline --baseline-seeds --batch-size --image-size --device --seed "
        "--set --json",
        "export": "--target --precision --calibration --out --min-agreement --max-drop --batch "
        "--no-verify --seed --set --json",
        "verify": "--data --json",
        "explain": "--picture --json",
        "profile": "--device --profile --protocol --data --threads --unit --out --seed --json",
        "compare": "--html --fail-if --json",
    }
    for name, options in expected.items():
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        found = {option for parameter in command.params for option in parameter.opts}
        assert set(options.split()) <= found, name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("distil",), "unknown command 'distil'; did you mean 'distill'?"),
        (("verify", "nowhere"), "nowhere is not a folder; a bundle made by `edgeseed export`"),
        (("evaluate", "nowhere.safetensors", "--data", "digits"), "nowhere.safetensors"),
        (("compare", "nowhere.json"), "nowhere.json does not exist"),
        (
            ("distill", "--student", "test_efficientnet", "--data", "digits", "--out", "x"),
            "method regress needs a teacher: give --teacher NAME",
        ),
        (
            ("distill", "--method", "sead", "--student", "a", "--data", "digits", "--out", "x"),
            "unknown method 'sead'; did you mean 'seed'?",
        ),
        (
            ("export", "nowhere.safetensors", "--target", "onyx", "--out", "x"),
            "unknown target 'onyx'; did you mean 'onnx'?",
        ),
    ],
)
def test_a_wrong_call_is_one_line_and_exit_code_2(
    arguments: tuple[str] | tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    output = capsys.readouterr()
    assert caught.value.code == 2
    assert message in output.err
    assert output.out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_process_of_its_own_ends_with_the_error_and_its_code() -> None:
    done = run("distil")
    assert done.returncode == 2
    assert "did you mean 'distill'?" in done.stderr
    assert done.stdout == ""


def test_the_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "edgeseed", "--version"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.startswith("edgeseed ")


def test_json_errors_are_json(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["verify", "nowhere", "--json"])
    assert json.loads(capsys.readouterr().out)["error"]["type"] == "UsageError"
    assert caught.value.code == 2


def test_ctrl_c_is_one_word_and_the_shells_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "main", interrupted)
    with pytest.raises(SystemExit) as caught:
        main(["methods"])
    assert caught.value.code == 130
    assert capsys.readouterr().err == "edgeseed: interrupted\n"


@pytest.mark.parametrize("command", ["methods", "targets", "devices", "teachers"])
def test_listings_are_json_too(command: str) -> None:
    result = CliRunner().invoke(cli, [command, "--json"])
    assert result.exit_code == 0
    assert json.loads(result.output)


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith("edgeseed ")
