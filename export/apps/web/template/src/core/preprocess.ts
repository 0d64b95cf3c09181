import type { Fault } from "./fault.js";
import type { Photo } from "./photo.js";
import { makeWindow, resample, resampleInDoubles } from "./resample.js";

/** The filter of a resize. */
export type Interpolation = "nearest" | "bilinear" | "bicubic";

/** The sizes of a model's preprocessing. */
export interface PreprocessOptions {
  /** Height of the input in pixels, and its width where `width` says no other. */
  imageSize: number;
  /** Width of the input in pixels; a square by default. */
  width?: number;
  /** Of the input: 3 for RGB, 1 for grey. */
  channels?: 1 | 3;
  /** Height of the box that the resized photo covers: of a square, the shorter side. */
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
  readonly width: number;
  readonly channels: 1 | 3;
  readonly resize: number;
  readonly interpolation: Interpolation;
  readonly mean: readonly number[];
  readonly std: readonly number[];

  constructor(options: PreprocessOptions) {
    this.imageSize = options.imageSize;
    this.width = options.width ?? options.imageSize;
    this.channels = options.channels ?? 3;
    this.resize = options.resize;
    this.interpolation = options.interpolation ?? "bilinear";
    this.mean = options.mean ?? [0.485, 0.456, 0.406];
    this.std = options.std ?? [0.229, 0.224, 0.225];
    if (!(this.imageSize >= 1 && this.imageSize <= this.resize)) {
      throw new RangeError(`imageSize=${this.imageSize} and resize=${this.resize}`);
    }
  }

  /** The pixels that the model gets: all red ones row by row, then green, then blue; or grey ones. */
  pixels(photo: Photo): Uint8Array {
    const box = this.box(photo, null);
    const size = this.imageSize * this.width;
    const planes = new Uint8Array(this.channels * size);
    for (let i = 0; i < size; i += 1) {
      if (this.channels === 1) {
        planes[i] = grey(box[3 * i]!, box[3 * i + 1]!, box[3 * i + 2]!);
      } else {
        planes[i] = box[3 * i]!;
        planes[size + i] = box[3 * i + 1]!;
        planes[2 * size + i] = box[3 * i + 2]!;
      }
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
    const box = this.box(photo, fault);
    const { channels } = this;
    const size = this.imageSize * this.width;
    const tensor = new Float32Array(channels * size);
    const at = (place: number, channel: number): number =>
      box[3 * place + (fault === "bgr" ? 2 - channel : channel)]!;
    for (let i = 0; i < tensor.length; i += 1) {
      const channel = fault === "nhwc" ? i % channels : Math.floor(i / size);
      const place = fault === "nhwc" ? Math.floor(i / channels) : i % size;
      const value =
        channels === 1 ? grey(at(place, 0), at(place, 1), at(place, 2)) : at(place, channel);
      tensor[i] =
        fault === "scaled" ? (value / 255 - this.mean[channel]!) / this.std[channel]! : value;
    }
    return tensor;
  }

  /** What is cut out of the resized photo: R, G, B of each pixel, row by row. */
  private box(stored: Photo, fault: Fault | null): Uint8Array {
    const flat = stored.flattened(fault);
    const photo = fault === "orientation-ignored" ? flat.withOrientation(1) : flat;
    const { imageSize: boxHeight, width: boxWidth, interpolation } = this;
    const { uprightWidth: width, uprightHeight: height } = photo;
    const scale = this.scale(width, height);
    const newWidth = Math.max(boxWidth, Math.floor(width * scale + 0.5));
    const newHeight = Math.max(boxHeight, Math.floor(height * scale + 0.5));
    const shift = fault === "crop-off-by-one" ? 1 : 0;
    const left = Math.min(Math.floor((newWidth - boxWidth) / 2) + shift, newWidth - boxWidth);
    const top = Math.min(Math.floor((newHeight - boxHeight) / 2) + shift, newHeight - boxHeight);
    const columns = makeWindow(width, newWidth, left, boxWidth, interpolation, fault);
    const rows = makeWindow(height, newHeight, top, boxHeight, interpolation, fault);
    const resize = fault === "float-rounding" ? resampleInDoubles : resample;
    return resize(photo, columns, rows);
  }

  private scale(width: number, height: number): number {
    if (this.width === this.imageSize) return this.resize / Math.min(width, height);
    const resizedWidth = (this.resize * this.width) / this.imageSize;
    return Math.max(this.resize / height, resizedWidth / width);
  }
}

/** ITU-R 601 in whole numbers. */
const grey = (red: number, green: number, blue: number): number =>
  (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16;
