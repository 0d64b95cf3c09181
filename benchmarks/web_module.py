"""A web module in Chromium beside Python: few-shot answers, and preprocessing of twelve megapixels.

    python benchmarks/web_module.py BUNDLE --data CLASS_FOLDERS --out results/web-module.json

A gallery of five photos a class is made by `edgeseed gallery`; the module's own page then answers
photos that are not in it, and so does Python with ONNX Runtime and the same gallery. Photos go as
PNG, so that both decode the same pixels. Times are of the same machine, one after the other.
"""

import argparse
import base64
import io
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image

from edgeseed.core.bundle import read_bundle
from edgeseed.core.environment import environment
from edgeseed.core.photos import decode, open_photos
from edgeseed.core.preprocess import Preprocess
from edgeseed.export import embed, gallery
from edgeseed.export.apps.gallery import classify, read_gallery

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from support.chromium import WITHOUT_GPU, Page, start_chromium
from support.static_server import serve_folder

PHOTO_SIZE = (4032, 3024)
REPEATS = 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--photos", type=int, default=300)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="web-module-") as folder:
        work = Path(folder)
        made = gallery(arguments.bundle, data=arguments.data, out=work / "gallery.bin")
        module = build_module(arguments.bundle, work)
        with serve_folder(module / "demo/dist") as url, start_chromium(*WITHOUT_GPU) as browser:
            page = browser.open(url)
            page.wait_for("document.body?.dataset.ready === 'true'")
            result = {
                "bundle": arguments.bundle.name,
                "data": arguments.data.name,
                "gallery": {k: v for k, v in made.to_dict().items() if k != "gallery"},
                "few_shot": few_shot(page, arguments, work / "gallery.bin"),
                "preprocessing": preprocessing(page),
                "environment": environment(),
            }
    arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({k: v for k, v in result.items() if k != "environment"}, indent=1))


def build_module(bundle: Path, work: Path) -> Path:
    """The module with its page built."""
    npm = shutil.which("npm")
    assert npm is not None, "npm is missing"
    embed(bundle, platform="web", out=work / "module", name="fewshot")
    for command in (["install", "--no-audit", "--no-fund", "--silent"], ["run", "demo:build"]):
        subprocess.run([npm, *command], cwd=work / "module", check=True, capture_output=True)
    return work / "module"


def few_shot(page: Page, arguments: argparse.Namespace, gallery_file: Path) -> dict[str, Any]:
    """Answers of the page and of Python to the same photos."""
    bundle = read_bundle(arguments.bundle)
    session = onnxruntime.InferenceSession(
        str(bundle.model_path), providers=["CPUExecutionProvider"]
    )
    there = read_gallery(gallery_file)
    photos = open_photos(arguments.data)
    assert photos.labels is not None
    assert photos.classes is not None
    drawn = np.random.default_rng(1).choice(len(photos), arguments.photos, replace=False)
    content = base64.b64encode(gallery_file.read_bytes()).decode()
    page.evaluate(
        "window.bytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0));"
        f"window.taught = demo.model.openGallery(bytes('{content}')); 0"
    )
    same, same_rule, right, right_in_python = 0, 0, 0, 0
    differences = []
    for index in drawn:
        photo = photos.image(int(index))
        file = io.BytesIO()
        photo.save(file, "png")
        text = base64.b64encode(file.getvalue()).decode()
        found = page.evaluate(
            f"demo.model.embed(new Blob([bytes('{text}')]))"
            ".then(e => ({...window.taught.classify(e), embedding: [...e]}))"
        )
        by_its_embedding = classify(there, np.array(found["embedding"], np.float32))
        same_rule += by_its_embedding.index == found["index"]
        pixels = bundle.manifest.preprocess.pixels(decode(file.getvalue()))
        feeds = {bundle.manifest.inputs[0].name: pixels[None].astype(np.float32)}
        expected = classify(there, session.run(["embedding"], feeds)[0][0])
        label = photos.classes[int(photos.labels[index])]
        same += (found["index"], found["recognised"]) == (expected.index, expected.recognised)
        differences.append(abs(found["similarity"] - expected.similarity))
        right += found["label"] == label
        right_in_python += expected.index is not None and there.classes[expected.index] == label
    n = len(drawn)
    return {
        "n": n,
        "same_answers": same / n,
        "same_answers_for_the_same_embedding": same_rule / n,
        "largest_similarity_difference": max(differences),
        "accuracy": right / n,
        "accuracy_python": right_in_python / n,
    }


def preprocessing(page: Page) -> dict[str, Any]:
    """Median milliseconds from twelve megapixels to 224 px, after decoding; and the model's."""
    width, height = PHOTO_SIZE
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    photo = Image.fromarray(noise)
    found: dict[str, Any] = {"photo": [width, height], "repeats": REPEATS}
    page.evaluate(
        f"window.photo = demo.noise({width}, {height}); window.timed = run => {{"
        f" const times = []; for (let i = 0; i < {REPEATS}; i += 1) {{"
        " const start = performance.now(); run(); times.push(performance.now() - start) }"
        " return times.sort((a, b) => a - b)[times.length >> 1] }; 0"
    )
    for interpolation in ("bilinear", "bicubic"):
        preprocess = Preprocess(image_size=224, resize=256, interpolation=interpolation)
        times = []
        for _ in range(REPEATS):
            start = time.perf_counter()
            preprocess.pixels(photo)
            times.append(1000 * (time.perf_counter() - start))
        sizes = f"{{imageSize: 224, resize: 256, interpolation: '{interpolation}'}}"
        module = page.evaluate(f"timed(() => demo.preprocess({sizes}).pixels(window.photo))")
        found[interpolation] = {
            "pillow_ms": median(times),
            "module_ms": module,
            "ratio": module / median(times),
        }
    model = page.evaluate(
        "(async () => { const input = demo.info.preprocess.tensor(demo.noise(64, 64));"
        " const times = []; for (let i = 0; i < 20; i += 1) { const start = performance.now();"
        " await demo.model.runTensor(input); times.push(performance.now() - start) }"
        " return times.sort((a, b) => a - b)[10] })()"
    )
    return {**found, "model_ms": model}


if __name__ == "__main__":
    main()
