import { displayP3ToSrgb } from "./display-p3.js";
import type { Fault } from "./fault.js";

/** What a photo's fourth value means for its colours. */
export type Alpha = "none" | "straight" | "premultiplied";

/** The colour space of a photo's values. */
export type Profile = "srgb" | "display-p3";

/** How the pixels of a {@link Photo} lie in memory, and what they mean. */
export interface PhotoOptions {
  /** Bytes from one pixel to the next: 3 or 4 (the default). */
  pixelStride?: number;
  /** Bytes from one row to the next; by default `width * pixelStride`. */
  rowStride?: number;
  alpha?: Alpha;
  /** EXIF's number, 1 to 8; another means 1. */
  orientation?: number;
  profile?: Profile;
}

/** Pixels as a decoder gives them: not yet upright, alpha and profile not yet applied. */
export class Photo {
  readonly pixelStride: number;
  readonly rowStride: number;
  readonly alpha: Alpha;
  readonly orientation: number;
  readonly profile: Profile;

  /**
   * @param pixels red, green and blue of a pixel in one byte each, and alpha as fourth.
   * @param width stored width in pixels.
   * @param height stored height in pixels.
   */
  constructor(
    readonly pixels: Uint8Array | Uint8ClampedArray,
    readonly width: number,
    readonly height: number,
    options: PhotoOptions = {},
  ) {
    this.pixelStride = options.pixelStride ?? 4;
    this.rowStride = options.rowStride ?? width * this.pixelStride;
    this.alpha = options.alpha ?? "none";
    this.orientation = options.orientation ?? 1;
    this.profile = options.profile ?? "srgb";
    if (!(width > 0 && height > 0)) throw new RangeError(`a photo of ${width} x ${height} pixels`);
    if (this.pixelStride !== 3 && this.pixelStride !== 4) {
      throw new RangeError(`${this.pixelStride} bytes a pixel: 3 or 4`);
    }
    if (this.alpha !== "none" && this.pixelStride !== 4) {
      throw new RangeError("alpha needs 4 bytes a pixel");
    }
    const needed = (height - 1) * this.rowStride + width * this.pixelStride;
    if (this.rowStride < width * this.pixelStride || pixels.length < needed) {
      throw new RangeError(
        `${width} x ${height} pixels need ${needed} bytes, found ${pixels.length}`,
      );
    }
  }

  /** Whether the stored width is the height of the upright photo. */
  get isTurned(): boolean {
    return this.orientation >= 5 && this.orientation <= 8;
  }

  /** Width of the upright photo. */
  get uprightWidth(): number {
    return this.isTurned ? this.height : this.width;
  }

  /** Height of the upright photo. */
  get uprightHeight(): number {
    return this.isTurned ? this.width : this.height;
  }

  /** The same photo as if its orientation were another. */
  withOrientation(orientation: number): Photo {
    const { pixels, width, height, pixelStride, rowStride, alpha, profile } = this;
    return new Photo(pixels, width, height, {
      pixelStride,
      rowStride,
      alpha,
      profile,
      orientation,
    });
  }

  /** The same photo as opaque sRGB: the profile applied, then alpha laid over white. */
  flattened(fault: Fault | null = null): Photo {
    const converts = this.profile === "display-p3" && fault !== "p3-as-srgb";
    if (!converts && (this.alpha === "none" || this.isOpaque())) return this;
    const { pixels, width, height, pixelStride, rowStride, alpha, orientation } = this;
    const rgb = new Uint8Array(width * height * 3);
    const color = new Int32Array(3);
    let target = 0;
    for (let y = 0; y < height; y += 1) {
      let source = y * rowStride;
      for (let x = 0; x < width; x += 1) {
        for (let c = 0; c < 3; c += 1) color[c] = pixels[source + c]!;
        if (converts) displayP3ToSrgb(color);
        if (alpha !== "none") layOver(color, pixels[source + 3]!, alpha, fault);
        for (let c = 0; c < 3; c += 1) rgb[target + c] = color[c]!;
        source += pixelStride;
        target += 3;
      }
    }
    return new Photo(rgb, width, height, { pixelStride: 3, orientation });
  }

  private isOpaque(): boolean {
    for (let y = 0; y < this.height; y += 1) {
      const end = y * this.rowStride + this.width * 4;
      for (let place = y * this.rowStride + 3; place < end; place += 4) {
        if (this.pixels[place] !== 255) return false;
      }
    }
    return true;
  }
}

function layOver(color: Int32Array, opacity: number, alpha: Alpha, fault: Fault | null): void {
  for (let c = 0; c < 3; c += 1) {
    const value = color[c]!;
    if (fault === "alpha-premultiplied") {
      color[c] = alpha === "premultiplied" ? value : Math.floor((value * opacity * 2 + 255) / 510);
    } else if (alpha === "premultiplied") {
      color[c] = Math.min(255, value + 255 - opacity);
    } else {
      // Rounded division by 255 with 7 more bits, as Pillow lays alpha over white.
      const sum = 128 * (value * opacity + 255 * (255 - opacity)) + (128 << 7);
      color[c] = (((sum >> 8) + sum) >> 8) >> 7;
    }
  }
}
