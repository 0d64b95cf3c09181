import { littleEndianFloats } from "./npy.js";

const MAGIC = "EDGEGAL1";
const HEADER_BYTES = 12;

/** What a gallery says of one embedding. */
export interface Match {
  /** The class with the most votes; `null` where there is no entry, or the query is zero. */
  readonly label: string | null;
  readonly index: number | null;
  /** Largest cosine with any entry, -1 to 1. */
  readonly similarity: number;
  /** Of the votes, those of the class, 0 to 1. */
  readonly share: number;
  /** Whether the similarity reaches the threshold. */
  readonly recognised: boolean;
}

/** How a gallery decides. */
export interface GalleryOptions {
  readonly embeddingDim: number;
  /** The student whose embeddings these are; others mean nothing beside them. */
  readonly studentSha256: string;
  /** Least cosine with the nearest entry; below, a photo is not recognised. */
  readonly threshold: number;
  /** How many of the nearest entries vote. */
  readonly k?: number;
  /** How fast a vote falls with the distance. */
  readonly temperature?: number;
}

/**
 * Labelled embeddings that photos are recognised by: `edgeseed gallery` writes them, and an app adds
 * its own. The format and the rule of decision are in edgeseed's docs/embed-web.md.
 */
export class Gallery {
  readonly embeddingDim: number;
  readonly studentSha256: string;
  threshold: number;
  readonly k: number;
  readonly temperature: number;
  private names: string[] = [];
  private indices: number[] = [];
  private embeddings: Float32Array[] = [];

  constructor(options: GalleryOptions) {
    this.embeddingDim = options.embeddingDim;
    this.studentSha256 = options.studentSha256;
    this.threshold = options.threshold;
    this.k = options.k ?? 5;
    this.temperature = options.temperature ?? 0.07;
  }

  /** Class names, in the order in which they were first added. */
  get classes(): readonly string[] {
    return this.names;
  }

  /** Number of entries. */
  get size(): number {
    return this.indices.length;
  }

  /** Number of entries of a class. */
  count(label: string): number {
    const index = this.names.indexOf(label);
    return this.indices.filter((other) => other === index).length;
  }

  /** Adds a photo of a class, which may be new: a handful are enough. */
  add(label: string, embedding: ArrayLike<number>): void {
    const unit = this.unit(embedding);
    if (unit === null) throw new RangeError("an embedding of zeros");
    if (!this.names.includes(label)) this.names.push(label);
    this.indices.push(this.names.indexOf(label));
    this.embeddings.push(Float32Array.from(unit));
  }

  /** Removes all entries of a class; its name keeps its place. */
  remove(label: string): void {
    const gone = this.names.indexOf(label);
    this.embeddings = this.embeddings.filter((_, entry) => this.indices[entry] !== gone);
    this.indices = this.indices.filter((index) => index !== gone);
  }

  /** Recognises a photo by its embedding. */
  classify(embedding: ArrayLike<number>): Match {
    const query = this.unit(embedding);
    if (this.size === 0 || query === null) {
      return { label: null, index: null, similarity: 0, share: 0, recognised: false };
    }
    const cosines = this.embeddings.map((entry) => dot(entry, query));
    const nearest = cosines
      .map((_, entry) => entry)
      .sort((a, b) => cosines[b]! - cosines[a]! || a - b)
      .slice(0, this.k);
    const best = cosines[nearest[0]!]!;
    const votes = new Float64Array(this.names.length);
    for (const entry of nearest) {
      votes[this.indices[entry]!]! += Math.exp((cosines[entry]! - best) / this.temperature);
    }
    const index = votes.indexOf(Math.max(...votes));
    const total = votes.reduce((sum, vote) => sum + vote, 0);
    return {
      label: this.names[index]!,
      index,
      similarity: best,
      share: votes[index]! / total,
      recognised: best >= this.threshold,
    };
  }

  private unit(embedding: ArrayLike<number>): Float64Array | null {
    if (embedding.length !== this.embeddingDim) {
      throw new RangeError(
        `an embedding of ${embedding.length} values, this gallery has ${this.embeddingDim}`,
      );
    }
    const values = Float64Array.from(embedding);
    const length = Math.sqrt(dot(values, values));
    return length > 0 ? values.map((value) => value / length) : null;
  }

  /** The gallery as the content of a file that {@link Gallery.read} and edgeseed take. */
  toBytes(): Uint8Array<ArrayBuffer> {
    const description = asciiJson({
      schema_version: 1,
      embedding_dim: this.embeddingDim,
      num_entries: this.size,
      classes: this.names,
      k: this.k,
      temperature: this.temperature,
      threshold: this.threshold,
      student_sha256: this.studentSha256,
    });
    const text = description.padEnd(Math.ceil(description.length / 4) * 4);
    const start = HEADER_BYTES + text.length;
    const file = new Uint8Array(start + 4 * this.size * (1 + this.embeddingDim));
    const view = new DataView(file.buffer);
    file.set(new TextEncoder().encode(MAGIC));
    view.setUint32(8, text.length, true);
    file.set(new TextEncoder().encode(text), HEADER_BYTES);
    let place = start;
    for (const index of this.indices) {
      view.setUint32(place, index, true);
      place += 4;
    }
    for (const embedding of this.embeddings) {
      for (const value of embedding) {
        view.setFloat32(place, value, true);
        place += 4;
      }
    }
    return file;
  }

  /** Reads the content of a `gallery.bin`. */
  static read(file: Uint8Array): Gallery {
    const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
    const isOne = file.length > HEADER_BYTES && latin1(file.subarray(0, 8)) === MAGIC;
    if (!isOne) throw new Error("not a gallery");
    const start = HEADER_BYTES + view.getUint32(8, true);
    const notWhole = new Error("a gallery that is not whole");
    if (start > file.length) throw notWhole;
    const values = JSON.parse(new TextDecoder().decode(file.subarray(HEADER_BYTES, start)));
    if (values.schema_version !== 1) {
      throw new Error(`a gallery of version ${values.schema_version}, this module reads 1`);
    }
    const gallery = new Gallery({
      embeddingDim: values.embedding_dim,
      studentSha256: values.student_sha256,
      threshold: values.threshold,
      k: values.k,
      temperature: values.temperature,
    });
    const { embeddingDim: dim } = gallery;
    const count: number = values.num_entries;
    if (file.length !== start + 4 * count * (1 + dim)) throw notWhole;
    gallery.names = [...values.classes];
    for (let entry = 0; entry < count; entry += 1) {
      const index = view.getUint32(start + 4 * entry, true);
      if (index >= gallery.names.length)
        throw new Error(`class ${index} of ${gallery.names.length}`);
      gallery.indices.push(index);
      const place = start + 4 * count + 4 * dim * entry;
      gallery.embeddings.push(littleEndianFloats(file.subarray(place, place + 4 * dim)));
    }
    return gallery;
  }
}

/** The sum of products, in order. */
function dot(a: Float32Array | Float64Array, b: Float64Array): number {
  let sum = 0;
  for (let i = 0; i < b.length; i += 1) sum += a[i]! * b[i]!;
  return sum;
}

const latin1 = (bytes: Uint8Array): string => String.fromCharCode(...bytes);

/** JSON in ASCII: no name can be read otherwise by another reader. */
const asciiJson = (value: unknown): string =>
  JSON.stringify(value).replace(
    /[^ -~]/g,
    (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
