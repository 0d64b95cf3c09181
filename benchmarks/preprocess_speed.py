"""How long a 12-megapixel photo takes to become a 224-pixel input, in each language beside Pillow.

    EDGESEED_KOTLIN=DIR/package EDGESEED_SWIFT_CHROOT=DIR python benchmarks/preprocess_speed.py

tests/toolchains/ has the scripts that fetch the compilers; a language without one is left out, and
said so. The languages run in turns with Pillow, one thread each, so that a busy machine slows both;
what counts is the ratio. Decoding is not in it. Writes benchmarks/results/preprocess_speed.json.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL
from PIL import Image

from edgeseed.core.environment import environment
from edgeseed.core.preprocess import Preprocess
from edgeseed.export.samples import synthetic_photo

HERE = Path(__file__).parent
APPS = HERE.parent / "export/apps"
WIDTH, HEIGHT = 4032, 3024
RUNS, ROUNDS = 12, 5
PREPROCESS = Preprocess(image_size=224, resize=256)
_COMPILER_JARS = (
    "kotlin-compiler", "kotlin-stdlib", "kotlin-script-runtime", "kotlin-reflect",
    "kotlinx-coroutines-core-jvm", "annotations-13.0",
)  # fmt: skip
Timer = Callable[[int], list[float]]


def output(*command: str) -> str:
    """What a command prints; a failure ends the benchmark."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def numbers(text: str) -> list[float]:
    """Milliseconds, the first half left out: compilers of the JVM and of JavaScript warm up."""
    values = [float(line) for line in text.split()]
    return values[len(values) // 2 :]


def kotlin(folder: Path, photo: Path) -> Timer | None:
    home = os.environ.get("EDGESEED_KOTLIN")
    if not home:
        return None
    jars = Path(home) / "lib"
    sources = [
        *APPS.glob("android/template/src/main/kotlin/**/core/*.kt"),
        HERE / "preprocess/Main.kt",
    ]
    compiler = ":".join(str(jars / f"{name}.jar") for name in _COMPILER_JARS)
    standard = str(jars / "kotlin-stdlib.jar")
    output(
        "java", "-cp", compiler, "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler", "-no-stdlib",
        "-no-reflect", "-cp", standard, "-d", str(folder / "main.jar"), *map(str, sources),
    )  # fmt: skip
    path = f"{folder / 'main.jar'}:{standard}"
    return lambda orientation: numbers(
        output(
            "java",
            "-cp",
            path,
            "MainKt",
            str(photo),
            str(WIDTH),
            str(HEIGHT),
            str(orientation),
            str(2 * RUNS),
        )
    )


def swift(folder: Path, photo: Path) -> Timer | None:
    chroot = os.environ.get("EDGESEED_SWIFT_CHROOT")
    if not chroot and not shutil.which("swiftc"):
        return None
    # A chroot sees only what lies in it.
    place = Path(chroot) / "tmp/edgeseed-preprocess" if chroot else folder / "swift"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    for source in (
        *APPS.glob("ios/template/Sources/*Core/*.swift"),
        HERE / "preprocess/main.swift",
    ):
        shutil.copy(source, place)
    shutil.copy(photo, place / "photo.rgba")
    inside = "/tmp/edgeseed-preprocess" if chroot else str(place)
    before = ("chroot", chroot) if chroot else ()
    output(*before, "sh", "-c", f"cd {inside} && swiftc -O *.swift -o main")
    return lambda orientation: numbers(
        output(
            *before,
            f"{inside}/main",
            f"{inside}/photo.rgba",
            str(WIDTH),
            str(HEIGHT),
            str(orientation),
            str(2 * RUNS),
        )
    )


def pillow(image: Image.Image, orientation: int) -> list[float]:
    turned = {6: Image.Transpose.ROTATE_270}
    found = []
    for _ in range(RUNS):
        start = time.perf_counter()
        upright = image.transpose(turned[orientation]) if orientation in turned else image
        PREPROCESS.pixels(upright)
        found.append((time.perf_counter() - start) * 1e3)
    return found


def compare(timer: Timer, image: Image.Image, orientation: int) -> dict[str, object]:
    """Medians of each, in turns, and the ratio of each round."""
    ours, theirs, ratios = [], [], []
    for _ in range(ROUNDS):
        ours.append(statistics.median(timer(orientation)))
        theirs.append(statistics.median(pillow(image, orientation)))
        ratios.append(ours[-1] / theirs[-1])
    return {
        "median_ms": round(statistics.median(ours), 2),
        "pillow_median_ms": round(statistics.median(theirs), 2),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_of_each_round": [round(ratio, 3) for ratio in ratios],
        "runs_a_round": RUNS,
    }


def main() -> None:
    """Measures what there is a compiler for."""
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "results/preprocess_speed.json"
    image = synthetic_photo(HEIGHT, seed=0).resize((WIDTH, HEIGHT))
    results: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        photo = folder / "photo.rgba"
        alpha = np.full((HEIGHT, WIDTH, 1), 255, np.uint8)
        photo.write_bytes(np.concatenate([np.asarray(image), alpha], axis=-1).tobytes())
        for name, build in {"kotlin": kotlin, "swift": swift}.items():
            timer = build(folder, photo)
            if timer is None:
                print(f"{name}: left out, no compiler (see tests/toolchains)")
                continue
            for orientation in (1, 6):
                found = compare(timer, image, orientation)
                results[f"{name}, orientation {orientation}"] = found
                print(name, orientation, found)
    record = {
        "what": f"{WIDTH}x{HEIGHT} RGBA to 224 px (resize 256, bilinear), without decoding",
        "busy_machine": os.getloadavg()[0] > 1,
        "load_average": os.getloadavg()[0],
        "pillow": PIL.__version__,
        "environment": environment(),
        "results": results,
    }
    out.write_text(json.dumps(record, indent=1, default=str) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
