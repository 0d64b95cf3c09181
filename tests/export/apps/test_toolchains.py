"""The modules' own code by real compilers: byte-equal to Python, each planted mistake named."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from support.toolchains import Kotlin, Swift, run, write_stubs

from edgeseed.core.bundle import read_bundle, seal_bundle
from edgeseed.export import embed, export
from edgeseed.export.apps.literals import kotlin_string, swift_string
from edgeseed.runtime.conformance import check_conformance, read_measurement_file

HERE = Path(__file__).parent
# What a name may be: nothing of it may end a literal, start a template or be taken for code.
NASTY = (
    'a "quoted" name', "it's", "two\nlines", "$HOME ${1 + 1} $x", "\\(evil) \\u0041 \\", "*/ /* //",
    "</script><script>alert(1)</script>", "naïve 🐦 \u202e \u2028 \0", '"; System.exit(1); "',
    "`ls`", "}", "#if DEBUG", '"""', "\ud83d",
)  # fmt: skip

pytestmark = pytest.mark.slow


def nasty_bundle(student: Path, folder: Path, *, target: str, precision: str) -> Path:
    """A bundle whose names are as bad as names can be."""
    export(student, target=target, precision=precision, out=folder)
    bundle = read_bundle(folder)
    # Names of classes hold no line break; the model's own name may.
    classes = (NASTY[0], NASTY[3], NASTY[4], NASTY[6])
    (folder / "labels.txt").unlink()
    seal_bundle(
        folder, dataclasses.replace(bundle.manifest, name="".join(NASTY[:-1]), classes=classes)
    )
    return folder


@pytest.fixture(scope="module", params=["onnx", "litert"])
def android(
    request: pytest.FixtureRequest, student: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    if request.param == "litert":
        pytest.importorskip("ai_edge_litert", reason="needs ai-edge-litert")
    place = tmp_path_factory.mktemp("android")
    bundle = nasty_bundle(student, place / "bundle", target=request.param, precision="fp32")
    embed(bundle, platform="android", out=place / "birds", name="birds")
    return place / "birds"


@pytest.mark.kotlin
def test_the_kotlin_core_meets_the_conformance_set_and_names_each_mistake(
    android: Path, tmp_path: Path
) -> None:
    kotlin = Kotlin()
    sources = [*android.glob("src/main/kotlin/edgeseed/birds/core/*.kt")]
    sources += [*android.glob("src/main/kotlin/edgeseed/birds/ModelInfo.kt")]
    sources += [*android.glob("src/test/kotlin/edgeseed/birds/*.kt")]
    kotlin.compile(sources, tmp_path / "core.jar")
    printed = kotlin.run(
        "org.junit.runner.JUnitCore",
        "edgeseed.birds.CoreTest",
        classpath=[tmp_path / "core.jar"],
        assets=str(android / "src/main/assets/birds"),
        measurement=str(tmp_path / "measurement.json"),
    )
    assert "OK (" in printed
    check_measurement(tmp_path / "measurement.json", runner="android-app")


@pytest.mark.kotlin
def test_the_whole_android_module_compiles_against_signatures(
    android: Path, tmp_path: Path
) -> None:
    kotlin = Kotlin()
    # Each module sees the signatures of its own runtime alone.
    runtime = json.loads((android / "module.json").read_text())["model"]["target"]
    runtime = {"onnx": "onnxruntime"}.get(runtime, runtime)
    stubs = [
        path
        for name in ("android_stubs", f"{runtime}_stubs")
        for path in write_stubs(HERE / f"{name}.txt", tmp_path / "stubs")
    ]
    classes = tmp_path / "classes"
    classes.mkdir()
    libraries = ":".join(map(str, kotlin.libraries))
    run("javac", "-nowarn", "-cp", libraries, "-d", str(classes), *map(str, stubs))
    sources = [*android.glob("src/*/kotlin/**/*.kt")]
    assert len(sources) > 15
    kotlin.compile(sources, tmp_path / "all.jar", classpath=[classes])


@pytest.mark.kotlin
def test_kotlin_literals_are_the_text_that_they_were_made_of(tmp_path: Path) -> None:
    kotlin = Kotlin()
    lines = "\n".join(
        f'    println({kotlin_string(name)}.map {{ it.code }}.joinToString(" "))' for name in NASTY
    )
    (tmp_path / "Main.kt").write_text(f"fun main() {{\n{lines}\n}}\n", encoding="ascii")
    kotlin.compile([tmp_path / "Main.kt"], tmp_path / "main.jar")
    printed = kotlin.run("MainKt", classpath=[tmp_path / "main.jar"]).splitlines()
    assert [list(map(int, line.split())) for line in printed] == [utf16(name) for name in NASTY]


def utf16(text: str) -> list[int]:
    units = text.encode("utf-16-be", "surrogatepass")
    return [units[i] * 256 + units[i + 1] for i in range(0, len(units), 2)]


@pytest.mark.swift
def test_the_swift_package_meets_the_conformance_set_and_names_each_mistake(
    student: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    swift = Swift(tmp_path_factory.mktemp("swift"))
    bundle = nasty_bundle(student, swift.scratch / "bundle", target="coreml", precision="fp16")
    package = swift.scratch / "birds"
    embed(bundle, platform="ios", out=package, name="birds")
    try:
        lint = swift.run(package, "swift-format lint -r Package.swift Sources Tests")
        # A name that needs escapes is a long literal, which no formatter can break.
        assert not [line for line in lint.splitlines() if "ModelInfo.swift" not in line]
        place = "EDGESEED_MEASUREMENT=measurement.json"
        # Optimised: twelve megapixels through a plain inflater take minutes without.
        printed = swift.run(package, f"{place} swift test -c release -Xswiftc -enable-testing 2>&1")
        assert "with 0 failures" in printed
        check_measurement(package / "measurement.json", runner="apple-app")
        # What only Apple compiles is read by the compiler's front end.
        for file in (package / "Sources/Birds").glob("*.swift"):
            text = file.read_text().replace("#if canImport(CoreML)", "#if true")
            file.write_text(text.replace("#if canImport(UIKit)", "#if true"))
        printed = swift.run(package, "swiftc -frontend -parse Sources/Birds/*.swift 2>&1")
        assert "error" not in printed
    finally:
        shutil.rmtree(swift.scratch)


@pytest.mark.swift
def test_swift_literals_are_the_text_that_they_were_made_of(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    swift = Swift(tmp_path_factory.mktemp("literals"))
    lines = "\n".join(
        f"print({swift_string(name)}.unicodeScalars.map {{ $0.value }})" for name in NASTY
    )
    (swift.scratch / "main.swift").write_text(lines + "\n", encoding="ascii")
    try:
        printed = swift.run(swift.scratch, "swiftc main.swift -o literals && ./literals")
    finally:
        shutil.rmtree(swift.scratch)
    # A lone surrogate is no text in Swift.
    expected = [[ord(char) for char in name.replace("\ud83d", "\ufffd")] for name in NASTY]
    assert [json.loads(line) for line in printed.splitlines()] == expected


def check_measurement(path: Path, *, runner: str) -> None:
    found = read_measurement_file(path)
    check_conformance(found, stages=None, what=path.name)
    assert found.runner == runner
    assert len(found.samples_ns) == 600
    assert found.request is not None
    assert found.request.protocol == "rapid"
