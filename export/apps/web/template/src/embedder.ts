import { Gallery } from "./core/gallery.js";
import type { PhotoSource } from "./decoding.js";
import { MODEL_INFO } from "./model-info.js";
import { Model } from "./model.js";
import type { LoadOptions } from "./model.js";

/** Turns photos into embeddings: near ones look alike. */
export class Embedder extends Model {
  /** Opens the model. */
  static async load(options: LoadOptions = {}): Promise<Embedder> {
    return new Embedder(...(await Model.open(options)));
  }

  /** The embedding of a photo. */
  async embed(photo: PhotoSource): Promise<Float32Array> {
    const { embedding } = await this.run(photo);
    return embedding!;
  }

  /** The same of several photos. */
  async embedBatch(photos: Iterable<PhotoSource>): Promise<Float32Array[]> {
    const outputs = await this.runBatch(photos);
    return outputs.map(({ embedding }) => embedding!);
  }

  /**
   * An empty gallery for this model's embeddings.
   *
   * @param threshold least cosine with the nearest entry; `edgeseed gallery` chooses one.
   */
  newGallery(threshold = 0.5): Gallery {
    const { embeddingDim, studentSha256 } = MODEL_INFO;
    return new Gallery({ embeddingDim, studentSha256, threshold });
  }

  /** Reads a gallery; one of another student is refused, since its embeddings mean nothing here. */
  openGallery(file: Uint8Array): Gallery {
    const gallery = Gallery.read(file);
    if (gallery.studentSha256 !== MODEL_INFO.studentSha256) {
      throw new Error("this gallery is of another student: make it anew with `edgeseed gallery`");
    }
    return gallery;
  }
}
