"""Numbers of a bundle on Arm, computed by ONNX Runtime's aarch64 build under emulation.

    python benchmarks/arm_numerics.py --userland DIR BUNDLE... [--out results.json]

Kernels of another processor round and sum otherwise. Whether that changes a model's answers can be
seen without an Arm board: a Debian arm64 userland, ONNX Runtime's own aarch64 wheel, and qemu's
user emulation compute the very instructions. **It says nothing about speed.**

For each bundle it states the largest difference to the golden outputs (made on x86, relative to the
largest value, as the golden gate counts), how many values are equal, and on the bundle's held-out
photos the agreement with the same file on this machine's ONNX Runtime.

`--userland` is made on first use: 312 MB by debootstrap and 139 MB of wheels. It needs the packages
qemu-user-static and debootstrap, and takes some minutes.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from edgeseed.core.agreement import agreement, relative_error
from edgeseed.core.bundle import Bundle, read_bundle
from edgeseed.core.environment import environment
from edgeseed.core.files import write_json

CPU = "neoverse-n1"
CORES = 2
# ONNX Runtime reads the host's /proc/cpuinfo under emulation, and newer versions crash on an x86
# one. It must agree with CPU: one that promises a dot product the emulated core lacks is worse.
CPUINFO = """processor\t: {number}
BogoMIPS\t: 50.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc \
dcpop asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x3
CPU part\t: 0xd0c
CPU revision\t: 1

"""
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64")
PACKAGES = ("onnxruntime", "numpy")
SUITE = "bookworm"
PYTHON = "3.11"
MIRROR = "http://deb.debian.org/debian"

# Runs on the emulated Arm: numpy and onnxruntime alone.
RUNNER = """
import os, sys
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import numpy as np, onnxruntime, platform
model, photos, out = sys.argv[1:]
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
name, names = session.get_inputs()[0].name, [o.name for o in session.get_outputs()]
pixels = np.load(photos)
parts = [session.run(names, {name: pixels[i:i + 1].astype(np.float32)}) for i in range(len(pixels))]
values = {n: np.concatenate([part[k] for part in parts]) for k, n in enumerate(names)}
np.savez(out, **values)
print(platform.machine(), onnxruntime.__version__)
"""


def prepare(userland: Path) -> Path:
    """The interpreter of an arm64 userland in `userland`, made where it is absent."""
    root, packages, python = userland / "root", userland / "site", userland / "python"
    for program in ("qemu-aarch64-static", "debootstrap"):
        if shutil.which(program) is None:
            sys.exit(f"{program} is missing: apt-get install qemu-user-static debootstrap")
    interpreter = root / f"usr/bin/python{PYTHON}"
    if not interpreter.exists():
        if not (root / "var/cache/apt/archives").is_dir():
            include = "--include=python3,python3-venv"
            subprocess.run(
                ["debootstrap", "--arch=arm64", "--foreign", "--variant=minbase", include, SUITE,
                 root, MIRROR],
                check=True,
            )  # fmt: skip
        # No second stage: unpacking is enough, and it needs no binfmt_misc.
        for package in sorted((root / "var/cache/apt/archives").glob("*.deb")):
            subprocess.run(["dpkg-deb", "-x", package, root], check=True)
    if not (packages / "onnxruntime").is_dir():
        platforms = [word for name in PLATFORMS for word in ("--platform", name)]
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", packages]
        command += [*platforms, "--python-version", PYTHON, "--only-binary=:all:", *PACKAGES]
        subprocess.run(command, check=True)
    (root / "proc").mkdir(exist_ok=True)
    cpuinfo = "".join(CPUINFO.format(number=number) for number in range(CORES))
    (root / "proc/cpuinfo").write_text(cpuinfo)
    python.write_text(
        f"#!/bin/sh\nexec env PYTHONPATH={packages} PYTHONDONTWRITEBYTECODE=1 "
        f'qemu-aarch64-static -cpu {CPU} -L {root} {interpreter} "$@"\n'
    )
    python.chmod(0o755)
    return python


def run_on_arm(python: Path, bundle: Bundle, pixels: Any) -> tuple[dict[str, Any], str]:
    """Outputs of photos under emulation, and what ran them."""
    with tempfile.TemporaryDirectory(prefix="edgeseed-arm-") as folder:
        photos, out = Path(folder) / "photos.npy", Path(folder) / "outputs.npz"
        np.save(photos, pixels)
        done = subprocess.run(
            [python, "-c", RUNNER, bundle.model_path, photos, out],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            sys.exit(f"{bundle.path}: {done.stderr.strip().splitlines()[-1]}")
        with np.load(out) as archive:
            return {name: archive[name] for name in archive.files}, done.stdout.split("\n")[-2]


def run_here(bundle: Bundle, pixels: Any) -> dict[str, Any]:
    """The same photos on this machine's ONNX Runtime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        str(bundle.model_path), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    name = session.get_inputs()[0].name
    parts = [
        session.run(names, {name: pixels[start : start + 1].astype(np.float32)})
        for start in range(len(pixels))
    ]
    return {each: np.concatenate([part[i] for part in parts]) for i, each in enumerate(names)}


def compare(python: Path, folder: Path, *, num_photos: int) -> dict[str, Any]:
    """One bundle: golden outputs, and agreement on held-out photos."""
    bundle = read_bundle(folder)
    inputs = np.load(bundle.path / "golden/inputs.npy")
    with np.load(bundle.path / "golden/model.npz") as archive:
        golden = {name: archive[name] for name in archive.files}
    found, machine = run_on_arm(python, bundle, inputs)
    outputs = {
        name: {
            "relative_error": relative_error(found[name], golden[name]),
            "equal_share": float(np.mean(found[name] == golden[name])),
        }
        for name in golden
    }
    with np.load(bundle.path / "reference/photos.npz") as archive:
        pixels = archive["pixels"][:num_photos]
    on_arm, _ = run_on_arm(python, bundle, pixels)
    here = run_here(bundle, pixels)
    return {
        "bundle": bundle.path.name,
        "network": bundle.manifest.name,
        "precision": bundle.manifest.precision,
        "arm": machine,
        "x86": f"onnxruntime {onnxruntime.__version__}",
        "golden": {"n": len(inputs), "outputs": outputs},
        "agreement_with_x86": agreement(on_arm, here),
        "n": len(pixels),
    }


def main() -> None:
    """Compare every bundle that is named."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("--userland", type=Path, required=True, metavar="DIR")
    parser.add_argument("--photos", type=int, default=256, help="held-out photos of each bundle")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    python = prepare(arguments.userland.resolve())
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    rows = [compare(python, bundle, num_photos=arguments.photos) for bundle in arguments.bundles]
    for row in rows:
        errors = ", ".join(
            f"{name} {values['relative_error']:.2g} ({values['equal_share']:.1%} equal)"
            for name, values in row["golden"]["outputs"].items()
        )
        print(
            f"{row['bundle']}: {errors}; agreement with x86 {row['agreement_with_x86']:.2%} of "
            f"{row['n']} photos ({row['arm']})"
        )
    if arguments.out is not None:
        write_json(arguments.out, {"emulated": True, "rows": rows, "environment": environment()})


if __name__ == "__main__":
    main()
