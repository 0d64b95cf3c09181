package edgeseed.edgeseedmodule

import android.content.Context
import edgeseed.edgeseedmodule.core.Photo
import edgeseed.edgeseedmodule.core.Prediction
import edgeseed.edgeseedmodule.core.readLabels
import edgeseed.edgeseedmodule.core.topK
import java.io.Closeable

/**
 * Says which class a photo shows.
 *
 * ```
 * Classifier(context).use { classifier ->
 *     val best = classifier.classify(bitmap.toPhoto()).first()
 * }
 * ```
 */
class Classifier(context: Context, engine: Engine = Engine.DEFAULT, threads: Int = 4) : Closeable {
    /** The opened model, for its self-test. */
    val model: Model

    /** The model's classes, in the order of its outputs. */
    val labels: List<String>

    init {
        check(ModelInfo.NUM_CLASSES > 0) {
            "this model has no classes: use Embedder with a gallery"
        }
        model = Model(context, engine, threads)
        labels = readLabels(model.readAsset("labels.json"))
    }

    /** The [k] most probable classes, the most probable first. */
    fun classify(photo: Photo, k: Int = 5): List<Prediction> = classify(listOf(photo), k)[0]

    /** The same for several photos at once, in their order. */
    fun classify(photos: List<Photo>, k: Int = 5): List<List<Prediction>> =
        model.run(photos).map { topK(it.getValue("logits"), labels, k) }

    override fun close() = model.close()
}
