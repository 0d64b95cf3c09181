import { topK } from "./core/predictions.js";
import type { Prediction } from "./core/predictions.js";
import type { PhotoSource } from "./decoding.js";
import { Model } from "./model.js";
import type { LoadOptions } from "./model.js";

/** How many classes to give. */
export interface ClassifyOptions {
  /** 5 by default. */
  k?: number;
}

/** Says which of the model's classes a photo shows. */
export class Classifier extends Model {
  /** Opens the model; one that has no classes is refused. */
  static async load(options: LoadOptions = {}): Promise<Classifier> {
    const classifier = new Classifier(...(await Model.open(options)));
    if (classifier.labels.length === 0) {
      throw new Error("this model has no classes: use Embedder and a gallery");
    }
    return classifier;
  }

  /** The most probable classes of a photo, the most probable first. */
  async classify(photo: PhotoSource, options: ClassifyOptions = {}): Promise<Prediction[]> {
    const { logits } = await this.run(photo);
    return topK(logits!, this.labels, options.k ?? 5);
  }

  /** The same of several photos. */
  async classifyBatch(
    photos: Iterable<PhotoSource>,
    options: ClassifyOptions = {},
  ): Promise<Prediction[][]> {
    const outputs = await this.runBatch(photos);
    return outputs.map(({ logits }) => topK(logits!, this.labels, options.k ?? 5));
  }
}
