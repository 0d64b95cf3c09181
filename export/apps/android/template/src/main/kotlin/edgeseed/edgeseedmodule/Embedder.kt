package edgeseed.edgeseedmodule

import android.content.Context
import edgeseed.edgeseedmodule.core.Gallery
import edgeseed.edgeseedmodule.core.Photo
import java.io.Closeable

/**
 * Turns a photo into an embedding, by which a [Gallery] recognises it.
 *
 * ```
 * val gallery = embedder.readGallery(file.readBytes())
 * gallery.add("mug", embedder.embed(photo))
 * val match = gallery.classify(embedder.embed(other))
 * file.writeBytes(gallery.toBytes())
 * ```
 */
class Embedder(context: Context, engine: Engine = Engine.DEFAULT, threads: Int = 4) : Closeable {
    /** The opened model, for its self-test. */
    val model = Model(context, engine, threads)

    /** [ModelInfo.EMBEDDING_DIM] values. */
    fun embed(photo: Photo): FloatArray = embed(listOf(photo))[0]

    /** The same for several photos at once, in their order. */
    fun embed(photos: List<Photo>): List<FloatArray> =
        model.run(photos).map { it.getValue("embedding") }

    /**
     * An empty gallery for this model's embeddings.
     *
     * @param threshold least similarity of what is recognised; `edgeseed gallery` chooses one.
     */
    fun newGallery(threshold: Double) =
        Gallery(ModelInfo.EMBEDDING_DIM, ModelInfo.STUDENT_SHA256, threshold)

    /** A gallery that `edgeseed gallery` or this app wrote; one of another student is refused. */
    fun readGallery(content: ByteArray): Gallery {
        val gallery = Gallery.read(content)
        require(gallery.studentSha256 == ModelInfo.STUDENT_SHA256) {
            "the gallery is of another student; make it anew: edgeseed gallery"
        }
        return gallery
    }

    override fun close() = model.close()
}
