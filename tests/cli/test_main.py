"""The command line as a contract: help, errors, exit codes, JSON, and the options scripts use."""

import json
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from edgeseed.cli._main import cli, main

COMMANDS = cli.list_commands(click.Context(cli))


def run(*arguments: str) -> subprocess.CompletedProcess:
    code = "from edgeseed.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-P", "-c", code, *arguments], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_and_json(command):
    result = CliRunner().invoke(cli, [command, "--help"])
    assert result.exit_code == 0
    assert "--json" in result.output
    text = cli.get_command(click.Context(cli), command)
    assert text is not None
    assert text.help


def test_help_imports_nothing_heavy():
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


def test_every_commands_help_imports_no_torch():
    code = (
        "import sys\n"
        "from edgeseed.cli import main\n"
        "try: main([sys.argv[1], '--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'onnx'} & set(sys.modules)\n"
    )
    for command in ("distill", "export", "profile", "quickstart"):
        subprocess.run([sys.executable, "-P", "-c", code, command], check=True, capture_output=True)


def test_the_options_that_scripts_rely_on_are_there():
    expected = {
        "quickstart": "--out --seed --json",
        "distill": "--method --teacher --student --peer --activation --drop-se --data --out "
        "--epochs --batch-size --image-size --lr --seed --devices --precision --set --config "
        "--resume --during --json",
        "finetune": "--data --test-data --labels --projection --out --epochs --batch-size "
        "--image-size --lr --seed --devices --precision --set --config --resume --json",
        "pretrain": "--method --model --data --out --epochs --batch-size --image-size --lr --seed "
        "--devices --precision --set --config --resume --during --json",
        "evaluate": "--data --test-data --protocol --save-classifier --save-metrics --batch-size "
        "--image-size --device --seed --json",
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
def test_a_wrong_call_is_one_line_and_exit_code_2(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_json_errors_are_json():
    done = run("verify", "nowhere", "--json")
    assert json.loads(done.stdout)["error"]["type"] == "UsageError"
    assert done.returncode == 2


@pytest.mark.parametrize("command", ["methods", "targets", "devices", "teachers"])
def test_listings_are_json_too(command):
    result = CliRunner().invoke(cli, [command, "--json"])
    assert result.exit_code == 0
    assert json.loads(result.output)


def test_doctor_says_what_works():
    result = CliRunner().invoke(cli, ["doctor", "--json"])
    checks = {check["name"]: check for check in json.loads(result.output)["checks"]}
    assert checks["torch"]["status"] == "ok"
    assert all(check["fix"] for check in checks.values() if check["status"] != "ok")


def test_version_is_printed(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith("edgeseed ")
