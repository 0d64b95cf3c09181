package edgeseed.edgeseedmodule.core

/**
 * What the golden photos showed.
 *
 * @property passed whether preprocessing and model do in this app what they did at the export.
 * @property problems what is wrong, a line each.
 * @property largestInputDifference of any golden photo's input, in levels of 0 to 255.
 * @property relativeErrors largest error of each output over the largest value of its photo.
 * @property tolerance the most that each of these may be.
 */
class SelfTestReport(
    val problems: List<String>,
    val numPhotos: Int,
    val largestInputDifference: Float,
    val relativeErrors: Map<String, Double>,
    val tolerance: Double,
) {
    val passed: Boolean get() = problems.isEmpty()

    override fun toString(): String =
        if (passed) "self-test passed: $numPhotos golden photos, inputs equal, outputs $relativeErrors"
        else "self-test FAILED: " + problems.joinToString("; ")
}

/**
 * Runs the golden photos from their PNG files to the model's outputs, and the conformance set from
 * its files to inputs: golden photos that are all grey would not show channels in a wrong order.
 *
 * @param readAsset the content of a file by its path among the module's assets.
 * @param decode a file as the app decodes photos.
 * @param tensor the model's input of a photo, as the app makes it.
 * @param run the outputs, by name, of one photo's input.
 */
fun selfTest(
    preprocess: Preprocess,
    readAsset: (String) -> ByteArray,
    decode: (ByteArray) -> Photo,
    tensor: (Photo, Preprocess) -> FloatArray = { photo, sizes -> sizes.tensor(photo, null) },
    run: (FloatArray) -> Map<String, FloatArray>,
): SelfTestReport {
    val read = { name: String -> readAsset("golden/$name") }
    val description = Json.parse(String(read("golden.json"), Charsets.UTF_8)) as Map<*, *>
    val tolerance = description["tolerance"] as Double
    val photos = (description["photos"] as List<*>).map { it as String }
    val inputs = NumpyArray.read(read(description["inputs"] as String)).bytes()
    val outputs = (description["outputs"] as Map<*, *>).entries.associate { (name, file) ->
        name as String to NumpyArray.read(read(file as String)).floats()
    }
    val size = inputs.size / photos.size
    val problems = ArrayList<String>()
    val errors = LinkedHashMap<String, Double>()
    var largest = 0f
    photos.forEachIndexed { i, name ->
        val photo = decode(read(name))
        val found = tensor(photo, preprocess)
        val expected = FloatArray(size) { (inputs[i * size + it].toInt() and 255).toFloat() }
        if (!found.contentEquals(expected)) {
            val difference = expected.indices.maxOf { Math.abs(expected[it] - found[it]) }
            largest = maxOf(largest, difference)
            problems.add("$name: ${explain(photo, preprocess, found, expected)}")
        }
        // The model gets the right input in any case: so its own mistakes are told apart.
        for ((output, values) in run(expected)) {
            val golden = outputs[output] ?: continue
            val width = golden.size / photos.size
            val error = relativeError(values, golden.copyOfRange(i * width, (i + 1) * width))
            errors[output] = maxOf(errors[output] ?: 0.0, error)
            // Written this way round so that NaN fails.
            if (!(error <= tolerance)) {
                problems.add("$name: output $output is off by $error (allowed: $tolerance)")
            }
        }
    }
    problems += Conformance { readAsset("conformance/$it") }.checkPlatform(decode, tensor)
    for (name in outputs.keys - errors.keys) problems.add("the model has no output $name")
    return SelfTestReport(problems, photos.size, largest, errors, tolerance)
}

private fun explain(
    photo: Photo,
    preprocess: Preprocess,
    found: FloatArray,
    expected: FloatArray,
): String {
    val own = preprocess.tensor(photo, null)
    if (own.contentEquals(expected)) return diagnose(photo, preprocess, found).toString()
    val difference = expected.indices.maxOf { Math.abs(expected[it] - own[it]) }
    return "decoded pixels give an input that is off by up to $difference levels: the PNG was " +
        "decoded otherwise than it is stored (colour management, scaling, or a lossy copy?)"
}

private fun relativeError(found: FloatArray, expected: FloatArray): Double {
    if (found.size != expected.size) return Double.POSITIVE_INFINITY
    val scale = expected.maxOf { Math.abs(it) }.toDouble()
    var largest = 0.0
    for (i in found.indices) {
        val difference = Math.abs((found[i] - expected[i]).toDouble())
        if (difference.isNaN()) return Double.NaN
        largest = maxOf(largest, difference)
    }
    return largest / maxOf(scale, 1e-12)
}
