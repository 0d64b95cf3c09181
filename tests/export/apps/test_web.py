"""Web modules: their sources, built by npm's tools, and the self-test in a real Chromium."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from support.chromium import CHROMIUM, WITHOUT_GPU, Page, start_chromium
from support.export import tinted_photo
from support.static_server import serve_folder

from edgeseed.core.bundle import read_bundle
from edgeseed.export import embed, verify_module
from edgeseed.export.apps.contents import ModelFacts, model_facts
from edgeseed.export.apps.gallery import classify as classify_in_python
from edgeseed.export.apps.gallery import make_gallery, read_gallery, write_gallery
from edgeseed.export.apps.literals import typescript_string
from edgeseed.export.apps.reference import FAULTS, Fault
from edgeseed.export.apps.web import PLATFORM

NPM, NODE = shutil.which("npm"), shutil.which("node")
_NPM_SECONDS = 600
built_by_npm = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(NPM is None, reason="npm is missing"),
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here"),
]


def run(*command: str, folder: Path) -> str:
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=_NPM_SECONDS, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# ------------------------------------------------------------------------------- without npm


@pytest.fixture(scope="session")
def facts(made_fp32: Path) -> ModelFacts:
    return model_facts(read_bundle(made_fp32), module="birds")


def test_the_numbers_of_the_module_are_the_bundles(facts: ModelFacts) -> None:
    text = PLATFORM.constants(facts)["src/model-info.ts"]

    assert 'module: "birds"' in text
    assert f"imageSize: {facts.preprocess.image_size}" in text
    assert f"resize: {facts.preprocess.resize}" in text
    assert 'interpolation: "bicubic"' in text
    assert facts.bundle_digest in text
    assert facts.student_sha256 in text


def test_the_template_names_the_faults_as_python_does() -> None:
    text = (PLATFORM.template / "src/core/fault.ts").read_text(encoding="utf-8")

    for fault, cause in FAULTS.items():
        assert f'{cause}"' in text
        assert f'"{fault}": ' in text or f"{fault}: " in text


def test_nothing_in_the_template_asks_a_server_elsewhere() -> None:
    for path in PLATFORM.template.rglob("*"):
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            assert "http://" not in text, path
            assert "https://" not in text, path


def test_the_module_depends_on_the_runtime_alone() -> None:
    package = json.loads((PLATFORM.template / "package.json").read_text(encoding="utf-8"))

    assert set(package["dependencies"]) == {"onnxruntime-web"}


def test_a_module_is_written_and_verified(made_fp32: Path, tmp_path: Path) -> None:
    result = embed(made_fp32, platform="web", out=tmp_path / "birds", name="birds")

    assert (tmp_path / "birds/assets/model.onnx").is_file()
    assert "EdgeseedModule" not in (tmp_path / "birds/README.md").read_text(encoding="utf-8")
    package = json.loads((tmp_path / "birds/package.json").read_text(encoding="utf-8"))
    assert package["name"] == "birds"
    assert result.platform == "web"
    assert verify_module(tmp_path / "birds", bundle=made_fp32).edited == ()


HOSTILE_TEXTS = ["</script>", '"; process.exit(1); "', "${x}", "\u2028", "\\", "🐦\n", "`"]


@pytest.mark.slow
@pytest.mark.skipif(NODE is None, reason="node is missing")
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    texts=st.lists(
        st.text(max_size=30)
        | st.sampled_from(HOSTILE_TEXTS),
        min_size=1,
        max_size=30,
    )
)  # fmt: skip
def test_any_text_is_a_literal_that_holds_it(texts: list[str], tmp_path: Path) -> None:
    literals = [typescript_string(text) for text in texts]
    script = tmp_path / "texts.mjs"
    script.write_text(f"console.log(JSON.stringify([{', '.join(literals)}]))", encoding="ascii")

    found = run(str(NODE), str(script), folder=tmp_path)

    # Lone surrogates are not text, and hypothesis makes none.
    assert json.loads(found) == texts
    assert not any("</script" in literal for literal in literals)


# ---------------------------------------------------------------------------- built by npm


@pytest.fixture(scope="session")
def modules(
    made_fp32: Path, made_int8: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """A module of each precision, with its packages installed and its demo built."""
    root = tmp_path_factory.mktemp("web")
    found: dict[str, Path] = {}
    for precision, bundle in {"fp32": made_fp32, "int8": made_int8}.items():
        folder = root / precision
        embed(bundle, platform="web", out=folder, name="birds")
        if not found:
            try:
                run(str(NPM), "install", "--no-audit", "--no-fund", "--silent", folder=folder)
            except AssertionError as error:
                if "ENOTFOUND" in str(error) or "network" in str(error):
                    pytest.skip("npm has no network")
                raise
        else:
            shutil.copytree(root / "fp32/node_modules", folder / "node_modules", symlinks=True)
        run(str(NPM), "run", "demo:build", folder=folder)
        found[precision] = folder
    return found


class Demo:
    """The module's demo page in a browser."""

    def __init__(self, page: Page, module: Path) -> None:
        self.page = page
        self.module = module
        page.wait_for("document.body?.dataset.ready === 'true'")

    def self_test(self, changed: str = "{}") -> dict[str, Any]:
        report: dict[str, Any] = self.page.evaluate(f"demo.model.selfTest({changed})")
        return report


@pytest.fixture(scope="session", params=["fp32", "int8"])
def demo(modules: dict[str, Path], request: pytest.FixtureRequest) -> Iterator[Demo]:
    module = modules[request.param]
    with serve_folder(module / "demo/dist") as url, start_chromium(*WITHOUT_GPU) as browser:
        yield Demo(browser.open(url), module)


class TestBuilt:
    pytestmark = built_by_npm

    def test_types_are_right_and_the_core_is_byte_equal_in_node(
        self, modules: dict[str, Path]
    ) -> None:
        run(str(NPM), "run", "check", folder=modules["fp32"])
        run(str(NPM), "test", folder=modules["fp32"])

    def test_the_self_test_passes_in_a_browser_with_threads(self, demo: Demo) -> None:
        report = demo.self_test()

        assert report["problems"] == []
        assert report["passed"]
        assert report["largestInputDifference"] == 0
        assert demo.page.evaluate("crossOriginIsolated")
        limit = 1e-5 if demo.module.name == "fp32" else 0
        assert max(report["relativeErrors"].values()) <= limit

    @pytest.mark.parametrize("fault", FAULTS)
    def test_a_planted_fault_fails_the_self_test_and_is_named(
        self, demo: Demo, fault: Fault
    ) -> None:
        report = demo.self_test(_planted(fault))

        assert not report["passed"]
        cause = f"likely cause: {FAULTS[fault]} ({fault})"
        assert any(cause in line for line in report["problems"])

    def test_a_wrong_output_is_distinguished_from_a_wrong_input(self, demo: Demo) -> None:
        report = demo.self_test(
            "{run: async input => { const {embedding, ...rest} = await demo.model.runTensor(input);"
            " return {...rest, embedding: embedding.map(value => 1.2 * value + 0.1)} }}"
        )

        assert not report["passed"]
        assert report["largestInputDifference"] == 0
        assert all("output embedding is off by" in line for line in report["problems"])

    def test_predictions_are_the_hosts(self, demo: Demo, made_fp32: Path, made_int8: Path) -> None:
        import onnxruntime

        path = made_fp32 if demo.module.name == "fp32" else made_int8
        bundle = read_bundle(path)
        session = onnxruntime.InferenceSession(
            str(bundle.model_path), providers=["CPUExecutionProvider"]
        )
        photos = demo.module / "demo/dist/photos"
        photos.mkdir(exist_ok=True)
        for number in range(6):
            photo = tinted_photo(("blue", "green", "red")[number % 3], 500 + number)
            photo.resize((90 + number, 61)).save(photos / f"{number}.png")
        for number in range(6):
            found = demo.page.evaluate(
                f"fetch('photos/{number}.png').then(r => r.blob()).then(b => demo.model.run(b))"
                ".then(o => Object.fromEntries(Object.entries(o).map(([k, v]) => [k, [...v]])))"
            )
            with Image.open(photos / f"{number}.png") as image:
                pixels = bundle.manifest.preprocess.pixels(image.convert("RGB"))
            feeds = {bundle.manifest.inputs[0].name: pixels[None].astype(np.float32)}
            for output, values in zip(
                bundle.manifest.outputs, session.run(None, feeds), strict=True
            ):
                np.testing.assert_allclose(found[output.name], values[0], rtol=1e-4, atol=1e-4)

    def test_a_gallery_of_the_host_answers_alike_and_comes_back_with_more(
        self, demo: Demo, tmp_path: Path
    ) -> None:
        info = demo.page.evaluate("({d: demo.info.embeddingDim, s: demo.info.studentSha256})")
        random = np.random.default_rng(0)
        embeddings = random.normal(size=(10, info["d"]))
        gallery = make_gallery(
            embeddings, np.arange(10) % 2, classes=("a", 'b"\n'), threshold=0.2,
            student_sha256=info["s"],
        )  # fmt: skip
        write_gallery(tmp_path / "g.bin", gallery)
        query = random.normal(size=info["d"]).astype(np.float32)
        content = list((tmp_path / "g.bin").read_bytes())

        script = (
            f"(() => {{ const g = demo.model.openGallery(Uint8Array.from({content}));"
            f" const match = g.classify({query.tolist()}); g.add('new', {query.tolist()});"
            " return {match, bytes: [...g.toBytes()]} })()"
        )
        found = demo.page.evaluate(script)

        expected = classify_in_python(gallery, query)
        assert found["match"]["index"] == expected.index
        assert found["match"]["similarity"] == pytest.approx(expected.similarity, abs=1e-9)
        (tmp_path / "more.bin").write_bytes(bytes(found["bytes"]))
        more = read_gallery(tmp_path / "more.bin")
        assert more.classes == ("a", 'b"\n', "new")
        assert classify_in_python(more, query).similarity == pytest.approx(1)

    def test_the_benchmark_writes_a_measurement_that_profile_reads(
        self, demo: Demo, made_fp32: Path, made_int8: Path, tmp_path: Path
    ) -> None:
        from edgeseed.runtime import profile

        demo.page.evaluate(
            "demo.benchmark(demo.model, {protocol: 'rapid'}).then(m => { window.measured = m }); 0"
        )
        measured = demo.page.wait_for("window.measured", seconds=120)
        (tmp_path / "m.json").write_text(json.dumps(measured), encoding="utf-8")
        bundle = made_fp32 if demo.module.name == "fp32" else made_int8

        result = profile(bundle, measurement=tmp_path / "m.json", out=tmp_path / "r.json")

        assert result.engine.runner == "web-module"
        assert result.latency is not None
        assert result.latency.n >= 64

    def test_the_demo_asks_nobody_but_its_server(self, demo: Demo) -> None:
        names = demo.page.evaluate(
            "performance.getEntriesByType('resource').map(entry => new URL(entry.name).origin)"
        )

        assert set(names) == {demo.page.evaluate("location.origin")}

    def test_npm_pack_installs_into_a_fresh_vite_project_and_runs(
        self, modules: dict[str, Path], tmp_path: Path
    ) -> None:
        module = modules["int8"]
        run(str(NPM), "pack", "--silent", folder=module)
        app = tmp_path / "app"
        (app / "public").mkdir(parents=True)
        (app / "package.json").write_text('{"name": "app", "private": true, "type": "module"}')
        packed = next(module.glob("*.tgz"))
        versions = json.loads((module / "package.json").read_text())["devDependencies"]
        install = ("install", "--no-audit", "--no-fund", "--silent")
        run(str(NPM), *install, str(packed), f"vite@{versions['vite']}", folder=app)
        shutil.copytree(app / "node_modules/birds/assets", app / "public/birds")
        (app / "index.html").write_text(
            '<body><script type="module" src="main.js"></script></body>'
        )
        (app / "main.js").write_text(
            'import { Classifier } from "birds";\n'
            "const classifier = await Classifier.load();\n"
            "const { passed, problems } = await classifier.selfTest();\n"
            'const photo = await (await fetch("birds/golden/000.png")).blob();\n'
            "const best = await classifier.classify(photo, { k: 2 });\n"
            "window.found = { passed, problems, best };\n"
        )
        (app / "vite.config.js").write_text('export default { build: { target: "es2022" } };')
        run("node_modules/.bin/vite", "build", folder=app)

        with serve_folder(app / "dist") as url, start_chromium(*WITHOUT_GPU) as browser:
            found = browser.open(url).wait_for("window.found")

        assert found["problems"] == []
        assert len(found["best"]) == 2
        assert found["best"][0]["probability"] >= found["best"][1]["probability"]


def _planted(fault: str) -> str:
    """The app's own decoding or preprocessing, with a mistake in it."""
    if fault == "orientation-ignored":
        # What a decoder sees that does not know EXIF.
        return (
            "{decode: file => { const copy = file.slice(); const at = copy.findIndex((_, i) =>"
            " String.fromCharCode(...copy.subarray(i, i + 4)) === 'Exif');"
            " if (at > 0) copy[at] = 0; return demo.decodePhoto(new Blob([copy])) }}"
        )
    if fault == "p3-as-srgb":
        return (
            "{decode: async file => demo.decodePhoto(await createImageBitmap(new Blob([file]),"
            " {colorSpaceConversion: 'none'}))}"
        )
    return f"{{tensor: (photo, sizes) => sizes.tensor(photo, '{fault}')}}"
