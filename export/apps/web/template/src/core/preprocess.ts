import type { Fault } from "./fault.js";
import type { Photo } from "./photo.js";
import { makeWindow, resample, resampleInDoubles } from "./resample.js";

/** The filter of a resize. */
export type Interpolation = "nearest" | "bilinear" | "bicubic";

/** The sizes of a model's preprocessing. */
export interface PreprocessOptions {
  /** Height and width of the input in pixels. */
  imageSize: number;
  /** Shorter side after the resize; at least `imageSize`. */
  resize: number;
  interpolation?: Interpolation;
  /** Inside the model already; only the fault `scaled` uses them. */
  mean?: readonly number[];
  std?: readonly number[];
}

/**
 * From a photo to the model's input, byte for byte as edgeseed computes it in Python.
 *
 * The steps and their rounding are specified in edgeseed's docs/preprocessing.md.
 */
export class Preprocess {
  readonly imageSize: number;
  readonly resize: number;
  readonly interpolation: Interpolation;
  readonly mean: readonly number[];
  readonly std: readonly number[];

  constructor(options: PreprocessOptions) {
    this.imageSize = options.imageSize;
    this.resize = options.resize;
    this.interpolation = options.interpolation ?? "bilinear";
    this.mean = options.mean ?? [0.485, 0.456, 0.406];
    this.std = options.std ?? [0.229, 0.224, 0.225];
    if (!(this.imageSize >= 1 && this.imageSize <= this.resize)) {
      throw new RangeError(`imageSize=${this.imageSize} and resize=${this.resize}`);
    }
  }

  /** The pixels that the model gets: all red ones row by row, then green, then blue. */
  pixels(photo: Photo): Uint8Array {
    const square = this.square(photo, null);
    const size = this.imageSize * this.imageSize;
    const planes = new Uint8Array(3 * size);
    for (let i = 0; i < size; i += 1) {
      planes[i] = square[3 * i]!;
      planes[size + i] = square[3 * i + 1]!;
      planes[2 * size + i] = square[3 * i + 2]!;
    }
    return planes;
  }

  /**
   * The same as floats from 0 to 255, unscaled: the model does the rest.
   *
   * @param fault a mistake to make on purpose, for tests and diagnosis.
   */
  tensor(photo: Photo, fault: Fault | null = null): Float32Array {
    if (fault === null) return Float32Array.from(this.pixels(photo));
    const square = this.square(photo, fault);
    const size = this.imageSize * this.imageSize;
    const tensor = new Float32Array(3 * size);
    for (let i = 0; i < tensor.length; i += 1) {
      const channel = fault === "nhwc" ? i % 3 : Math.floor(i / size);
      const place = fault === "nhwc" ? Math.floor(i / 3) : i % size;
      const value = square[3 * place + (fault === "bgr" ? 2 - channel : channel)]!;
      tensor[i] =
        fault === "scaled" ? (value / 255 - this.mean[channel]!) / this.std[channel]! : value;
    }
    return tensor;
  }

  /** The square cut out of the resized photo: R, G, B of each pixel, row by row. */
  private square(stored: Photo, fault: Fault | null): Uint8Array {
    const flat = stored.flattened(fault);
    const photo = fault === "orientation-ignored" ? flat.withOrientation(1) : flat;
    const { imageSize: size, interpolation } = this;
    const { uprightWidth: width, uprightHeight: height } = photo;
    const scale = this.resize / Math.min(width, height);
    const newWidth = Math.max(size, Math.floor(width * scale + 0.5));
    const newHeight = Math.max(size, Math.floor(height * scale + 0.5));
    const shift = fault === "crop-off-by-one" ? 1 : 0;
    const left = Math.min(Math.floor((newWidth - size) / 2) + shift, newWidth - size);
    const top = Math.min(Math.floor((newHeight - size) / 2) + shift, newHeight - size);
    const columns = makeWindow(width, newWidth, left, size, interpolation, fault);
    const rows = makeWindow(height, newHeight, top, size, interpolation, fault);
    const resize = fault === "float-rounding" ? resampleInDoubles : resample;
    return resize(photo, columns, rows);
  }
}
