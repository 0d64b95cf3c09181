import { Conformance } from "./conformance.js";
import type { Decode, MakeTensor, ReadAsset } from "./conformance.js";
import { diagnose, largestDifference } from "./fault.js";
import { readNpy } from "./npy.js";
import type { Photo } from "./photo.js";
import type { Preprocess } from "./preprocess.js";

/** What the golden photos showed. */
export interface SelfTestReport {
  /** Whether preprocessing and model do in this app what they did at the export. */
  readonly passed: boolean;
  /** What is wrong, a line each. */
  readonly problems: readonly string[];
  readonly numPhotos: number;
  /** Of any golden photo's input, in levels of 0 to 255. */
  readonly largestInputDifference: number;
  /** Largest error of each output over the largest value of its photo. */
  readonly relativeErrors: Readonly<Record<string, number>>;
  /** The largest of them that passes. */
  readonly tolerance: number;
}

/** Outputs of the model for one photo, by name. */
export type Outputs = Readonly<Record<string, Float32Array>>;

/** What {@link selfTest} needs of the app. */
export interface SelfTestOptions {
  readonly preprocess: Preprocess;
  readonly readAsset: ReadAsset;
  readonly decode: Decode;
  readonly run: (input: Float32Array) => Promise<Outputs>;
  readonly tensor?: MakeTensor;
}

interface Golden {
  photos: string[];
  inputs: string;
  outputs: Record<string, string>;
  tolerance: number;
}

/**
 * Runs the golden photos from their PNG files to the model's outputs, and the conformance set from
 * its files to inputs: golden photos that are all grey would not show channels in a wrong order.
 */
export async function selfTest(options: SelfTestOptions): Promise<SelfTestReport> {
  const { preprocess, readAsset, decode, run } = options;
  const tensor = options.tensor ?? ((photo: Photo, sizes: Preprocess) => sizes.tensor(photo));
  const read: ReadAsset = (path) => readAsset(`golden/${path}`);
  const golden = JSON.parse(new TextDecoder().decode(await read("golden.json"))) as Golden;
  const inputs = readNpy(await read(golden.inputs)).values;
  const expectedOutputs = new Map<string, ArrayLike<number>>();
  for (const [name, file] of Object.entries(golden.outputs)) {
    expectedOutputs.set(name, readNpy(await read(file)).values);
  }
  const numPhotos = golden.photos.length;
  const size = inputs.length / numPhotos;
  const problems: string[] = [];
  const errors: Record<string, number> = {};
  let largest = 0;
  for (const [i, name] of golden.photos.entries()) {
    const photo = await decode(await read(name));
    const expected = Float32Array.from(inputs.subarray(i * size, (i + 1) * size));
    const found = tensor(photo, preprocess);
    const difference = largestDifference(expected, found);
    if (difference !== 0) {
      largest = Math.max(largest, difference);
      problems.push(`${name}: ${explain(photo, preprocess, found, expected)}`);
    }
    // The model gets the right input in any case, so that its own mistakes are told apart.
    for (const [output, values] of Object.entries(await run(expected))) {
      const all = expectedOutputs.get(output);
      if (all === undefined) continue;
      const width = all.length / numPhotos;
      const error = relativeError(values, Array.from(all).slice(i * width, (i + 1) * width));
      errors[output] = Math.max(errors[output] ?? 0, error);
      // Written this way round so that NaN fails.
      if (!(error <= golden.tolerance)) {
        problems.push(
          `${name}: output ${output} is off by ${error} (allowed: ${golden.tolerance})`,
        );
      }
    }
  }
  problems.push(...(await (await Conformance.open(readAsset)).checkPlatform(decode, tensor)));
  for (const name of expectedOutputs.keys()) {
    if (!(name in errors)) problems.push(`the model has no output ${name}`);
  }
  return {
    passed: problems.length === 0,
    problems,
    numPhotos,
    largestInputDifference: largest,
    relativeErrors: errors,
    tolerance: golden.tolerance,
  };
}

function explain(
  photo: Photo,
  preprocess: Preprocess,
  found: Float32Array,
  expected: Float32Array,
): string {
  const own = largestDifference(expected, preprocess.tensor(photo));
  if (own === 0) return diagnose(photo, preprocess, found)!.message;
  return (
    `decoded pixels give an input that is off by up to ${own} levels: the PNG was decoded otherwise ` +
    "than it is stored (colour management, scaling, a browser that adds noise to canvases, or a lossy copy?)"
  );
}

function relativeError(found: ArrayLike<number>, expected: ArrayLike<number>): number {
  const scale = Array.from(expected).reduce(
    (most, value) => Math.max(most, Math.abs(value)),
    1e-12,
  );
  return largestDifference(found, expected) / scale;
}
