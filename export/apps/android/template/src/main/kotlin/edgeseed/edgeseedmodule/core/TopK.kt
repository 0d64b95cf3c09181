package edgeseed.edgeseedmodule.core

/**
 * One class that a photo may show.
 *
 * @property index of the class among the model's.
 * @property probability 0 to 1.
 */
data class Prediction(val label: String, val index: Int, val probability: Double)

/** Probabilities of logits: they add up to 1. */
fun softmax(logits: FloatArray): DoubleArray {
    val largest = logits.max()
    val powers = DoubleArray(logits.size) { Math.exp((logits[it] - largest).toDouble()) }
    val total = powers.sum()
    return DoubleArray(powers.size) { powers[it] / total }
}

/** The [k] most probable classes, the most probable first; the earlier class first where equal. */
fun topK(logits: FloatArray, labels: List<String>, k: Int): List<Prediction> {
    require(logits.size == labels.size) { "${logits.size} logits for ${labels.size} labels" }
    val probabilities = softmax(logits)
    return logits.indices.sortedByDescending { logits[it] }.take(k).map {
        Prediction(labels[it], it, probabilities[it])
    }
}

/** Labels as the module's `labels.json` holds them. */
fun readLabels(file: ByteArray): List<String> =
    (Json.parse(String(file, Charsets.UTF_8)) as List<*>).map { it as String }
