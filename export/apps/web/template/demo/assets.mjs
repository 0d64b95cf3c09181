// Copies to where Vite serves files: the module's assets to demo/public/MODULE, and ONNX Runtime's
// files, which threads need as they are, to demo/public/runtime.

import { cp, mkdir, rm } from "node:fs/promises";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const runtime = dirname(createRequire(import.meta.url).resolve("onnxruntime-web"));
const files = join(here, "public");

await rm(files, { recursive: true, force: true });
await mkdir(join(files, "runtime"), { recursive: true });
await cp(join(here, "..", "assets"), join(files, "edgeseedmodule"), { recursive: true });
for (const name of ["ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"]) {
  await cp(join(runtime, name), join(files, "runtime", name));
}
