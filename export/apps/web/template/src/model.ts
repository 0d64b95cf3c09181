import type { InferenceSession } from "onnxruntime-web";
import * as ort from "onnxruntime-web/wasm";

import type { ReadAsset } from "./core/conformance.js";
import { Photo } from "./core/photo.js";
import { selfTest } from "./core/self-test.js";
import type { Outputs, SelfTestOptions, SelfTestReport } from "./core/self-test.js";
import { decodePhoto } from "./decoding.js";
import type { PhotoSource } from "./decoding.js";
import { MODEL_INFO } from "./model-info.js";

/** How a model is opened. */
export interface LoadOptions {
  /**
   * URL of the module's folder `assets`, as the app serves it; by default `MODULE/` beside the page,
   * where MODULE is the module's name.
   */
  assets?: string | URL;
  /**
   * Threads of ONNX Runtime; by default one. More need `runtime`, and a page that is cross-origin
   * isolated.
   */
  threads?: number;
  /**
   * URL of a folder with ONNX Runtime's `ort-wasm-simd-threaded.mjs` and `.wasm`, as they are in
   * `onnxruntime-web/dist`; by default they are where the bundler put them, which is enough for one
   * thread.
   */
  runtime?: string | URL;
}

/** How a model was opened. */
export interface Opened {
  /** Of the session alone: the file had arrived. */
  readonly loadMs: number;
  readonly threads: number;
  /** Of onnxruntime-web. */
  readonly runtimeVersion: string;
}

/** A model that is ready to run; `Classifier` and `Embedder` are for its two outputs. */
export class Model {
  protected constructor(
    private readonly session: InferenceSession,
    private readonly readAsset: ReadAsset,
    /** Class names of the model's logits; empty for a model without classes. */
    readonly labels: readonly string[],
    /** How the model was opened, for measurements. */
    readonly opened: Opened,
  ) {}

  protected static async open(
    options: LoadOptions,
  ): Promise<[session: InferenceSession, readAsset: ReadAsset, labels: string[], opened: Opened]> {
    const base = new URL(options.assets ?? `${MODEL_INFO.module}/`, document.baseURI);
    if (!base.pathname.endsWith("/")) base.pathname += "/";
    const readAsset: ReadAsset = (path) => fetchBytes(new URL(path, base));
    setUpRuntime(options);
    const labels = JSON.parse(new TextDecoder().decode(await readAsset("labels.json"))) as string[];
    const model = await readAsset(MODEL_INFO.model);
    const start = performance.now();
    const session = await ort.InferenceSession.create(model, { executionProviders: ["wasm"] });
    const opened: Opened = {
      loadMs: performance.now() - start,
      threads: options.threads ?? 1,
      runtimeVersion: ort.env.versions.web ?? "unknown",
    };
    return [session, readAsset, labels, opened];
  }

  /** The outputs of one photo, by name. */
  async run(source: PhotoSource): Promise<Outputs> {
    const photo = await decodePhoto(source);
    return this.runTensor(MODEL_INFO.preprocess.tensor(photo));
  }

  /** The outputs of each photo. */
  async runBatch(sources: Iterable<PhotoSource>): Promise<Outputs[]> {
    const found: Outputs[] = [];
    // One by one: WASM gains nothing from batches, and they would hold all photos in memory.
    for (const source of sources) found.push(await this.run(source));
    return found;
  }

  /** The outputs of an input that was made by the app's own preprocessing: C x H x W, 0 to 255. */
  async runTensor(input: Float32Array): Promise<Outputs> {
    const { imageSize, width, channels } = MODEL_INFO.preprocess;
    const tensor = new ort.Tensor("float32", input, [1, channels, imageSize, width]);
    const found = await this.session.run({ [MODEL_INFO.input]: tensor }, MODEL_INFO.outputs);
    const outputs = Object.entries(found).map(([name, value]) => [
      name,
      value.data as Float32Array,
    ]);
    return Object.fromEntries(outputs) as Outputs;
  }

  /**
   * Proves preprocessing and model in this browser: the golden photos from their files to the
   * outputs, and the conformance set. Run it in tests, and once in the field where it matters.
   *
   * @param changed the app's own `decode` or `tensor` where it replaces the module's.
   */
  async selfTest(
    changed: Partial<Pick<SelfTestOptions, "decode" | "tensor" | "run">> = {},
  ): Promise<SelfTestReport> {
    return selfTest({
      preprocess: MODEL_INFO.preprocess,
      readAsset: this.readAsset,
      decode: (file) => decodePhoto(new Blob([file as Uint8Array<ArrayBuffer>])),
      run: (input) => this.runTensor(input),
      ...changed,
    });
  }

  /** Frees the model. */
  async release(): Promise<void> {
    await this.session.release();
  }
}

function setUpRuntime({ threads = 1, runtime }: LoadOptions): void {
  if (threads > 1 && !crossOriginIsolated) {
    throw new Error(
      `${threads} threads need a cross-origin isolated page: serve it with the headers ` +
        "Cross-Origin-Opener-Policy: same-origin and Cross-Origin-Embedder-Policy: require-corp",
    );
  }
  if (threads > 1 && runtime === undefined) {
    // A bundler puts the runtime into the app's own file, which each thread would then run as well.
    throw new Error(
      `${threads} threads need ONNX Runtime's files as they are: serve ort-wasm-simd-threaded.mjs and ` +
        ".wasm of onnxruntime-web/dist, and say where by load({ runtime })",
    );
  }
  ort.env.wasm.numThreads = threads;
  if (runtime !== undefined) {
    const folder = new URL(runtime, document.baseURI).href;
    ort.env.wasm.wasmPaths = folder.endsWith("/") ? folder : `${folder}/`;
  }
}

/** A grey photo, for warming up and for timing. */
export const greyPhoto = (size: number): Photo =>
  new Photo(new Uint8Array(size * size * 4).fill(128), size, size);

async function fetchBytes(url: URL): Promise<Uint8Array> {
  const response = await fetch(url);
  // A development server answers a missing file with its start page.
  const isPage = (response.headers.get("Content-Type") ?? "").startsWith("text/html");
  if (!response.ok || isPage) {
    throw new Error(
      `${url.href} is not there: copy the module's folder assets to where the app serves files, and ` +
        "say where by load({ assets })",
    );
  }
  return new Uint8Array(await response.arrayBuffer());
}
