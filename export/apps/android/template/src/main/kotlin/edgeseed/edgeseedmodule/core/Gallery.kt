package edgeseed.edgeseedmodule.core

import java.nio.ByteBuffer
import java.nio.ByteOrder

/**
 * What a gallery says of one photo.
 *
 * @property label of the class with the most votes; null where the gallery is empty.
 * @property similarity largest cosine with any entry, -1 to 1.
 * @property share of the votes, those of the class, 0 to 1.
 * @property recognised whether the similarity reaches the gallery's threshold.
 */
data class Match(
    val label: String?,
    val index: Int?,
    val similarity: Double,
    val share: Double,
    val recognised: Boolean,
)

/**
 * Labelled embeddings that photos are recognised by: `edgeseed gallery` writes them, and an app adds
 * its own. The format and the rule of decision are in edgeseed's export/apps/gallery.py.
 *
 * Not safe for use from several threads at once.
 *
 * @property studentSha256 the student whose embeddings these are; others mean nothing beside them.
 */
class Gallery(
    val embeddingDim: Int,
    val studentSha256: String,
    var threshold: Double,
    val k: Int = 5,
    val temperature: Double = 0.07,
) {
    private val names = ArrayList<String>()
    private val indices = ArrayList<Int>()
    private val embeddings = ArrayList<FloatArray>()

    /** Class names, in the order in which they were first added. */
    val classes: List<String> get() = names

    /** Number of entries. */
    val size: Int get() = indices.size

    /** Adds a photo of a class, which may be new: a handful are enough. */
    fun add(label: String, embedding: FloatArray) {
        val unit = requireNotNull(unit(embedding)) { "an embedding of zeros" }
        if (label !in names) names.add(label)
        indices.add(names.indexOf(label))
        embeddings.add(FloatArray(unit.size) { unit[it].toFloat() })
    }

    /** Removes all entries of a class; its name keeps its place. */
    fun remove(label: String) {
        val gone = names.indexOf(label)
        for (entry in indices.indices.reversed()) {
            if (indices[entry] == gone) {
                indices.removeAt(entry)
                embeddings.removeAt(entry)
            }
        }
    }

    /** Recognises a photo by its embedding. */
    fun classify(embedding: FloatArray): Match {
        val query = unit(embedding)
        if (size == 0 || query == null) return Match(null, null, 0.0, 0.0, false)
        val cosines = DoubleArray(size) { entry ->
            var sum = 0.0
            for (i in query.indices) sum += embeddings[entry][i].toDouble() * query[i]
            sum
        }
        val nearest = cosines.indices.sortedByDescending { cosines[it] }.take(k)
        val best = cosines[nearest[0]]
        val votes = DoubleArray(names.size)
        for (entry in nearest) {
            votes[indices[entry]] += Math.exp((cosines[entry] - best) / temperature)
        }
        val winner = votes.indices.maxBy { votes[it] }
        return Match(names[winner], winner, best, votes[winner] / votes.sum(), best >= threshold)
    }

    private fun unit(embedding: FloatArray): DoubleArray? {
        require(embedding.size == embeddingDim) {
            "an embedding of ${embedding.size} values, this gallery has $embeddingDim"
        }
        var square = 0.0
        for (value in embedding) square += value.toDouble() * value
        val length = Math.sqrt(square)
        return if (length > 0) DoubleArray(embeddingDim) { embedding[it] / length } else null
    }

    /** The gallery as the content of a file that [read] and `edgeseed` take. */
    fun toBytes(): ByteArray {
        val description =
            "{\"schema_version\": 1, \"embedding_dim\": $embeddingDim, \"num_entries\": $size, " +
                "\"classes\": [${names.joinToString(", ") { Json.quote(it) }}], \"k\": $k, " +
                "\"temperature\": $temperature, \"threshold\": $threshold, " +
                "\"student_sha256\": ${Json.quote(studentSha256)}}"
        val text = description.padEnd((description.length + 3) / 4 * 4).toByteArray(Charsets.US_ASCII)
        val buffer = ByteBuffer.allocate(12 + text.size + 4 * size * (1 + embeddingDim))
        buffer.order(ByteOrder.LITTLE_ENDIAN)
        buffer.put(MAGIC).putInt(text.size).put(text)
        for (index in indices) buffer.putInt(index)
        for (embedding in embeddings) for (value in embedding) buffer.putFloat(value)
        return buffer.array()
    }

    companion object {
        private val MAGIC = "EDGEGAL1".toByteArray(Charsets.US_ASCII)

        /** Reads the content of a `gallery.bin`. */
        fun read(file: ByteArray): Gallery {
            require(file.size > 12 && file.copyOf(8).contentEquals(MAGIC)) { "not a gallery" }
            val buffer = ByteBuffer.wrap(file).order(ByteOrder.LITTLE_ENDIAN)
            val length = buffer.getInt(8)
            require(length in 2..file.size - 12) { "a gallery that is not whole" }
            val values = Json.parse(String(file, 12, length, Charsets.UTF_8)) as Map<*, *>
            val version = (values["schema_version"] as Double).toInt()
            require(version == 1) { "a gallery of version $version, this module reads 1" }
            val gallery = Gallery(
                embeddingDim = (values["embedding_dim"] as Double).toInt(),
                studentSha256 = values["student_sha256"] as String,
                threshold = values["threshold"] as Double,
                k = (values["k"] as Double).toInt(),
                temperature = values["temperature"] as Double,
            )
            (values["classes"] as List<*>).forEach { gallery.names.add(it as String) }
            val count = (values["num_entries"] as Double).toInt()
            require(file.size == 12 + length + 4 * count * (1 + gallery.embeddingDim)) {
                "a gallery that is not whole"
            }
            buffer.position(12 + length)
            repeat(count) {
                val index = buffer.getInt()
                require(index in gallery.names.indices) { "class $index of ${gallery.names.size}" }
                gallery.indices.add(index)
            }
            repeat(count) {
                gallery.embeddings.add(FloatArray(gallery.embeddingDim) { buffer.getFloat() })
            }
            return gallery
        }
    }
}
