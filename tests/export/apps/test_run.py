import dataclasses
import importlib.util
import json
import shutil
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgeseed.cli._main import cli
from edgeseed.core.bundle import read_bundle, seal_bundle
from edgeseed.core.errors import ArtifactError, SchemaVersionError, UnknownNameError, UsageError
from edgeseed.core.files import sha256_file, write_text
from edgeseed.core.reading import read_record
from edgeseed.export import embed, verify_module
from edgeseed.export.apps.contents import ModelFacts, model_facts
from edgeseed.export.apps.platform import PLATFORMS

Bundles = dict[str, Path]
KINDS = [(name, target) for name in PLATFORMS.names() for target in PLATFORMS.load(name).targets]


@pytest.fixture(scope="session")
def bundles(request: pytest.FixtureRequest, made_fp32: Path, made_coreml: Path) -> Bundles:
    """A bundle of each target that a platform runs, as far as this machine makes them."""
    made = {"onnx": made_fp32, "coreml": made_coreml}
    if importlib.util.find_spec("ai_edge_litert"):
        made["litert"] = request.getfixturevalue("made_litert")
    return made


@pytest.fixture(scope="session", params=KINDS, ids="-".join)
def module(
    request: pytest.FixtureRequest, bundles: Bundles, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A module of each platform and target; tests that damage it copy it."""
    name, target = request.param
    if target not in bundles:
        pytest.skip("needs ai-edge-litert: pip install edgeseed[litert]")
    place = tmp_path_factory.mktemp("module") / "birds"
    embed(bundles[target], platform=name, out=place, name="birds")
    return place


@pytest.fixture
def copy(module: Path, tmp_path: Path) -> Path:
    shutil.copytree(module, tmp_path / "birds")
    return tmp_path / "birds"


def platform_of(module: Path) -> str:
    return str(json.loads((module / "module.json").read_text())["platform"])


def target_of(module: Path) -> str:
    return str(json.loads((module / "module.json").read_text())["model"]["target"])


def assets(module: Path) -> Path:
    inside: str = PLATFORMS.load(platform_of(module)).assets.replace("edgeseedmodule", "birds")
    return module / inside.replace("EdgeseedModule", "Birds")


def constants(module: Path) -> Path:
    """The generated source that holds the preprocessing's numbers."""
    files = json.loads((module / "module.json").read_text())["files"]
    paths: list[Path] = [
        module / path for path, entry in files.items() if entry["role"] == "constants"
    ]
    return next(path for path in paths if "36" in path.read_text())


def test_a_module_holds_all_that_an_app_needs(module: Path) -> None:
    place = assets(module)
    assert json.loads((place / "labels.json").read_text()) == ["blue", "green", "plain", "red"]
    golden = json.loads((place / "golden/golden.json").read_text())
    for name in (*golden["photos"], golden["inputs"], *golden["outputs"].values()):
        assert (place / "golden" / name).is_file()
    assert (place / "conformance/conformance.json").is_file()
    assert list(place.glob("model.*"))
    assert "birds" in (module / "README.md").read_text().lower()


def test_no_stand_in_and_no_token_is_left_in_a_module(module: Path) -> None:
    for file in module.rglob("*"):
        assert "edgeseedmodule" not in file.name.lower()
        if file.suffix in {".kt", ".kts", ".swift", ".md", ".xml", ".json"}:
            text = file.read_text(encoding="utf-8")
            assert "edgeseedmodule" not in text.lower(), file
            assert not {"@MODEL@", "@SIZE@", "@RUNTIME@", "@DIGEST@", "@ENGINES@"} & set(
                text.split()
            ), file


def test_nothing_generated_speaks_to_the_network(module: Path) -> None:
    for file in module.rglob("*"):
        if file.suffix in {".kt", ".swift"}:
            text = file.read_text(encoding="utf-8")
            assert not [
                word
                for word in ("http://", "https://", "URLSession", "java.net", "Socket")
                if word in text
            ], file


def test_a_fresh_module_is_the_bundles(module: Path, bundles: Bundles) -> None:
    target = target_of(module)
    report = verify_module(module, bundle=bundles[target])
    assert report.edited == ()
    assert set(report.checked) == {
        "model", "labels", "golden", "conformance", "constants", "source",
    }  # fmt: skip


@pytest.mark.parametrize(
    "victim",
    ["labels.json", "golden/000.png", "golden/embedding.npy", "conformance/photos/tall.png"],
)
def test_a_changed_file_is_named(copy: Path, victim: str) -> None:
    path = assets(copy) / victim
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(ArtifactError, match=f"{victim}.*was changed"):
        verify_module(copy)
    path.unlink()
    with pytest.raises(ArtifactError, match=f"{victim}.*is missing"):
        verify_module(copy)


def test_a_changed_model_is_named(copy: Path) -> None:
    model = next(
        file
        for file in sorted(assets(copy).rglob("*"))
        if file.suffix in {".onnx", ".mlmodel", ".tflite"}
    )
    model.write_bytes(model.read_bytes()[:-1] + b"x")
    with pytest.raises(ArtifactError, match=f"{model.name} .model. was changed"):
        verify_module(copy)


def test_changed_constants_are_named_even_with_a_new_digest_in_the_record(copy: Path) -> None:
    facts = constants(copy)
    facts.write_text(facts.read_text().replace("36", "37"))
    record = json.loads((copy / "module.json").read_text())
    record["files"][facts.relative_to(copy).as_posix()]["sha256"] = sha256_file(facts)
    (copy / "module.json").write_text(json.dumps(record))
    with pytest.raises(ArtifactError, match=rf"{facts.name} .constants. does not say what module"):
        verify_module(copy)


def test_constants_that_are_no_text_are_named(copy: Path) -> None:
    facts = constants(copy)
    facts.write_bytes(b"\xff\xfe")
    with pytest.raises(ArtifactError, match=rf"{facts.name} .constants. does not say"):
        verify_module(copy)


@pytest.mark.parametrize("victim", ["labels.json", "golden/001.png", "golden/embedding.npy"])
def test_a_change_with_a_new_digest_in_the_record_is_told_by_the_bundle(
    copy: Path, bundles: Bundles, victim: str
) -> None:
    path = assets(copy) / victim
    path.write_bytes(path.read_bytes() + b" ")
    record = json.loads((copy / "module.json").read_text())
    record["files"][path.relative_to(copy).as_posix()]["sha256"] = sha256_file(path)
    record["bundle"]["files"].pop(victim, None)
    (copy / "module.json").write_text(json.dumps(record))
    verify_module(copy)
    target = target_of(copy)
    with pytest.raises(ArtifactError, match=rf"{victim} is not as .* has it"):
        verify_module(copy, bundle=bundles[target])


@pytest.mark.parametrize("role", ["source", None])
def test_a_record_that_disowns_the_model_hides_no_missing_one(copy: Path, role: str | None) -> None:
    record = json.loads((copy / "module.json").read_text())
    for path, entry in list(record["files"].items()):
        if entry["role"] == "model":
            (copy / path).unlink()
            if role is None:
                del record["files"][path]
            else:
                entry["role"] = role
    (copy / "module.json").write_text(json.dumps(record))
    with pytest.raises(ArtifactError, match=r"\(model\) is missing") as error:
        verify_module(copy)
    assert "module.json lists no model" in str(error.value)


def test_edited_sources_are_the_authors_right_and_are_listed(copy: Path) -> None:
    (copy / "README.md").write_text("ours")
    report = verify_module(copy)
    assert report.edited == ("README.md",)


def test_a_module_of_another_bundle_is_told(
    module: Path, bundles: Bundles, tmp_path: Path, student: Path
) -> None:
    target = target_of(module)
    other = tmp_path / "other"
    shutil.copytree(bundles[target], other)
    write_text(other / "labels.txt", "a\nb\nc\nd\n")
    import dataclasses

    manifest = dataclasses.replace(read_bundle(other, check=False).manifest, classes=tuple("abcd"))
    seal_bundle(other, manifest)
    with pytest.raises(ArtifactError, match=r"another labels\.txt"):
        verify_module(module, bundle=other)


def test_a_bundle_of_another_target_names_the_one_that_is_needed(
    bundles: Bundles, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"target onnx.*ios does not run.*needs coreml"):
        embed(bundles["onnx"], platform="ios", out=tmp_path / "m")
    with pytest.raises(UsageError, match=r"target coreml.*--target onnx"):
        embed(bundles["coreml"], platform="android", out=tmp_path / "m")
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("target", "package", "called", "engine"),
    [
        ("onnx", "com.microsoft.onnxruntime:onnxruntime-android:", "ai.onnxruntime", "onnxruntime"),
        ("litert", "com.google.ai.edge.litert:litert:", "org.tensorflow.lite", "litert"),
    ],
)
def test_an_android_module_depends_on_the_runtime_of_its_model(
    bundles: Bundles, tmp_path: Path, target: str, package: str, called: str, engine: str
) -> None:
    if target not in bundles:
        pytest.skip("needs ai-edge-litert: pip install edgeseed[litert]")
    embed(bundles[target], platform="android", out=tmp_path / "m", name="birds")
    dependency = (tmp_path / "m/runtime.dependency").read_text().strip()
    assert dependency.startswith(package)
    assert dependency in (tmp_path / "m/README.md").read_text()
    sources = tmp_path / "m/src/main/kotlin/edgeseed/birds"
    runtimes = {"ai.onnxruntime", "org.tensorflow.lite"}
    imported = "".join(path.read_text() for path in sources.rglob("*.kt"))
    assert {name for name in runtimes if f"import {name}" in imported} == {called}
    facts = (sources / "ModelInfo.kt").read_text()
    assert f'RUNTIME = "{engine}"' in facts
    shape, is_float = {
        "onnx": ("(N, 3, 32, 32)", "true"),
        "litert": ("(1, 32, 32, 3)", "false"),
    }[target]
    assert shape in facts
    assert f"inputIsFloat: Boolean = {is_float}" in facts


def test_an_unknown_platform_names_the_nearest(bundles: Bundles, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'android'"):
        embed(bundles["onnx"], platform="andriod", out=tmp_path / "m")


@pytest.mark.parametrize(
    "name",
    [
        "Birds",
        "1st",
        "class",
        "a-b",
        "a.b",
        "x" * 41,
        "",
        "a\n",
        "core",
        "swift",
        "foundation",
        "vite",
        "path",
    ],
)
def test_a_name_that_no_language_takes_is_refused(
    bundles: Bundles, tmp_path: Path, name: str
) -> None:
    with pytest.raises(UsageError, match="--name"):
        embed(bundles["onnx"], platform="android", out=tmp_path / "m", name=name)


def test_a_folder_that_is_there_is_not_overwritten(bundles: Bundles, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m/precious").write_text("kept")
    with pytest.raises(UsageError, match="exists already"):
        embed(bundles["onnx"], platform="android", out=tmp_path / "m")
    assert (tmp_path / "m/precious").read_text() == "kept"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("{}", ArtifactError),
        ('{"kind": "edgeseed-module", "schema_version": 9}', SchemaVersionError),
        ('{"kind": "edgeseed-module"}', SchemaVersionError),
        ('{"kind": "edgeseed-module", "schema_version": 1}', ArtifactError),
        (
            '{"kind": "edgeseed-module", "schema_version": 1, "platform": "ios", "model": {}, '
            '"bundle": [], "files": {}}',
            ArtifactError,
        ),
        ("not json", ArtifactError),
    ],
)
def test_a_record_that_is_none_is_refused(
    tmp_path: Path, text: str, error: type[Exception]
) -> None:
    (tmp_path / "module.json").write_text(text)
    with pytest.raises(error, match=r"module\.json"):
        verify_module(tmp_path)


def test_facts_survive_their_json(module: Path) -> None:
    record = json.loads((module / "module.json").read_text())
    facts = read_record(ModelFacts, record["model"], what="it")
    assert json.loads(json.dumps(facts.to_dict())) == record["model"]


def test_the_command_verifies_a_module(module: Path, bundles: Bundles) -> None:
    target = target_of(module)
    result = CliRunner().invoke(cli, ["verify", str(module), "--bundle", str(bundles[target])])
    assert result.exit_code == 0, result.output
    assert "birds" in result.output
    wrong = CliRunner().invoke(cli, ["verify", str(bundles[target]), "--bundle", str(module)])
    assert wrong.exit_code == 2


@pytest.mark.parametrize("target", ["onnx", "litert", "coreml"])
def test_a_model_that_cannot_be_opened_is_not_embedded(
    bundles: Bundles, tmp_path: Path, target: str
) -> None:
    # Sealed anew, so that its digest is right: an app would find out when it starts.
    if target not in bundles:
        pytest.skip("needs ai-edge-litert: pip install edgeseed[litert]")
    bundle = Path(shutil.copytree(bundles[target], tmp_path / "bundle"))
    manifest = read_bundle(bundle).manifest
    model = bundle / manifest.model
    file = model if model.is_file() else next(model.rglob("*.mlmodel"))
    file.write_bytes(file.read_bytes()[:500])
    seal_bundle(bundle, manifest)
    platform = next(name for name, made in KINDS if made == target)
    with pytest.raises(ArtifactError):
        embed(bundle, platform=platform, out=tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_where_the_models_runtime_is_missing_it_is_said_and_embedded(
    bundles: Bundles,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if "litert" not in bundles:
        pytest.skip("needs ai-edge-litert: pip install edgeseed[litert]")
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    embed(bundles["litert"], platform="android", out=tmp_path / "m", name="birds")
    assert "its model was not opened" in capsys.readouterr().err
    assert (tmp_path / "m/module.json").is_file()


@pytest.mark.parametrize(
    ("scheme", "said"),
    [
        (None, []),
        ("arm", []),
        ("x86", ["not fast", "--scheme arm"]),
        ("qnn", ["Qualcomm's NPU", "on the CPU", "onnxruntime-android-qnn"]),
        ("qnn-w8a16", ["Qualcomm's NPU", "on the CPU", "onnxruntime-android-qnn"]),
    ],
)
def test_android_is_told_what_its_integers_are_for(
    bundles: Bundles, scheme: str | None, said: list[str]
) -> None:
    facts = model_facts(read_bundle(bundles["onnx"]), module="birds")
    advice = PLATFORMS.load("android").advice(dataclasses.replace(facts, scheme=scheme))
    assert bool(said) == (advice is not None)
    assert all(part in str(advice) for part in said)
