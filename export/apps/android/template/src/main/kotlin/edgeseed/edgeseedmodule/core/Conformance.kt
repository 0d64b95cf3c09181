package edgeseed.edgeseedmodule.core

/**
 * The conformance set that travels with the module: photos, and the bytes they must become.
 *
 * @param read gives the content of a file by its path in the set.
 */
class Conformance(private val read: (String) -> ByteArray) {
    private val description = Json.parse(String(read("conformance.json"), Charsets.UTF_8)) as Map<*, *>

    /**
     * Checks the core: pixels as stored, the specified steps, and every byte equal.
     *
     * @param decode a lossless PNG as stored pixels of 3 or 4 bytes, without colour management.
     * @return what is wrong, a line each; empty if all is right.
     */
    fun checkCore(decode: (ByteArray) -> Photo): List<String> {
        val problems = ArrayList<String>()
        for (case in cases("photos")) {
            val found = preprocess(case).pixels(stored(case, decode))
            describeDifference(case, found)?.let { problems.add(it) }
        }
        for (case in cases("frames")) {
            val found = preprocess(case).pixels(frame(case).toPhoto(int(case, "rotation")))
            describeDifference(case, found)?.let { problems.add(it) }
        }
        return problems + checkGallery()
    }

    /**
     * Checks an app's way from a file to the model's input, within the levels that the set allows a
     * platform's decoder, and names the likely cause where it is wrong.
     *
     * @param decode a whole file as the app decodes it, by EXIF and profile.
     * @param tensor a photo's input as the app makes it.
     */
    fun checkPlatform(
        decode: (ByteArray) -> Photo,
        tensor: (Photo, Preprocess) -> FloatArray = { photo, sizes -> sizes.tensor(photo, null) },
    ): List<String> {
        val problems = ArrayList<String>()
        for (case in cases("photos") + cases("files")) {
            val isFile = "alpha" !in case
            // The photos' orientation stands beside them, not in the file.
            if (!isFile && (case["on_platform"] == false || int(case, "orientation") != 1)) continue
            val photo = decode(read(case["file"] as String))
            val preprocess = preprocess(case)
            val found = tensor(photo, preprocess)
            val expected = expected(case)
            val largest = expected.indices.maxOf { Math.abs(expected[it] - found[it]) }
            if (largest <= int(case, "platform_tolerance")) continue
            val fault = nearestFault(declared(case, photo), preprocess, found, expected)
            problems.add("${case["name"]}: ${Diagnosis(fault, largest)}")
        }
        return problems
    }

    /**
     * Checks that the set tells mistakes from the right way: each fault changes the photos that it
     * is said to change, and [diagnose] names it from its tensor.
     */
    fun checkFaults(decode: (ByteArray) -> Photo): List<String> {
        val problems = ArrayList<String>()
        val caught = HashSet<Fault>()
        for (case in cases("photos")) {
            val photo = stored(case, decode)
            // Ten wrong ways through twelve megapixels show no more than through the small photos.
            if (photo.width * photo.height > 1_000_000) continue
            val preprocess = preprocess(case)
            val right = preprocess.tensor(photo, null)
            val expected = (case["catches"] as List<*>).toSet()
            for (fault in Fault.entries) {
                val wrong = preprocess.tensor(photo, fault)
                val changes = !wrong.contentEquals(right)
                if (changes != (fault.id in expected)) {
                    problems.add("${case["name"]}: ${fault.id} changes it: $changes")
                }
                if (!changes) continue
                val named = diagnose(photo, preprocess, wrong)?.fault
                val same = named != null && preprocess.tensor(photo, named).contentEquals(wrong)
                if (same) caught.add(fault)
                else problems.add("${case["name"]}: ${fault.id} is taken for ${named?.id}")
            }
        }
        for (fault in Fault.entries - caught) problems.add("no photo catches ${fault.id}")
        return problems
    }

    private fun checkGallery(): List<String> {
        val case = description["gallery"] as Map<*, *>
        val content = read(case["file"] as String)
        val gallery = Gallery.read(content)
        val queries = NumpyArray.read(read(case["queries"] as String))
        val problems = ArrayList<String>()
        if (gallery.classes != case["classes"]) problems.add("gallery: classes ${gallery.classes}")
        if (!Gallery.read(gallery.toBytes()).toBytes().contentEquals(gallery.toBytes())) {
            problems.add("gallery: not the same after writing and reading")
        }
        val values = queries.floats()
        (case["answers"] as List<*>).forEachIndexed { i, answer ->
            val expected = answer as Map<*, *>
            val from = i * gallery.embeddingDim
            val found = gallery.classify(values.copyOfRange(from, from + gallery.embeddingDim))
            val isSame = found.index?.toDouble() == expected["index"] &&
                found.recognised == expected["recognised"] &&
                Math.abs(found.similarity - expected["similarity"] as Double) < 1e-9 &&
                Math.abs(found.share - expected["share"] as Double) < 1e-9
            if (!isSame) problems.add("gallery: query $i gives $found, expected $expected")
        }
        return problems
    }

    private fun cases(kind: String) = (description[kind] as List<*>).map { it as Map<*, *> }

    private fun int(case: Map<*, *>, name: String) = (case[name] as Double).toInt()

    private fun preprocess(case: Map<*, *>): Preprocess {
        val sizes = case["preprocess"] as Map<*, *>
        return Preprocess(
            imageSize = int(sizes, "image_size"),
            resize = int(sizes, "resize"),
            interpolation = Interpolation.valueOf((sizes["interpolation"] as String).uppercase()),
            width = int(sizes, if ("width" in sizes) "width" else "image_size"),
            channels = if ("channels" in sizes) int(sizes, "channels") else 3,
        )
    }

    private fun stored(case: Map<*, *>, decode: (ByteArray) -> Photo) =
        declared(case, decode(read(case["file"] as String)))

    /** The pixels as the set says that they are to be taken, whatever the decoder said. */
    private fun declared(case: Map<*, *>, photo: Photo) = Photo(
        photo.pixels,
        photo.width,
        photo.height,
        photo.pixelStride,
        photo.rowStride,
        alpha = Alpha.valueOf((case["alpha"] as String? ?: "none").uppercase()),
        orientation = int(case, "orientation"),
        profile = if (case["profile"] == "display-p3") Profile.DISPLAY_P3 else Profile.SRGB,
    )

    private fun expected(case: Map<*, *>): FloatArray {
        val values = NumpyArray.read(read(case["expected"] as String)).bytes()
        return FloatArray(values.size) { (values[it].toInt() and 255).toFloat() }
    }

    private fun frame(case: Map<*, *>): YuvFrame {
        val width = int(case, "width")
        val height = int(case, "height")
        val half = (width + 1) / 2
        val planes = read(case["file"] as String)
        val uAt = width * height
        val vAt = uAt + half * ((height + 1) / 2)
        return YuvFrame(
            width,
            height,
            Plane(planes.copyOfRange(0, uAt), width),
            Plane(planes.copyOfRange(uAt, vAt), half),
            Plane(planes.copyOfRange(vAt, planes.size), half),
            YuvMatrix.valueOf((case["matrix"] as String).uppercase()),
            YuvRange.valueOf((case["range"] as String).uppercase()),
        )
    }

    private fun describeDifference(case: Map<*, *>, found: ByteArray): String? {
        val expected = NumpyArray.read(read(case["expected"] as String)).bytes()
        if (expected.contentEquals(found)) return null
        if (expected.size != found.size) return "${case["name"]}: ${found.size} values"
        val wrong = found.indices.count { found[it] != expected[it] }
        return "${case["name"]}: $wrong of ${found.size} values are not Python's"
    }
}
