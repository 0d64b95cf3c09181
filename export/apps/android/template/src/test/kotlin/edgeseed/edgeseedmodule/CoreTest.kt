package edgeseed.edgeseedmodule

import edgeseed.edgeseedmodule.core.Conformance
import edgeseed.edgeseedmodule.core.DeviceFacts
import edgeseed.edgeseedmodule.core.Fault
import edgeseed.edgeseedmodule.core.NumpyArray
import edgeseed.edgeseedmodule.core.Photo
import edgeseed.edgeseedmodule.core.Profile
import edgeseed.edgeseedmodule.core.Protocol
import edgeseed.edgeseedmodule.core.SelfTestReport
import edgeseed.edgeseedmodule.core.measure
import edgeseed.edgeseedmodule.core.measurementJson
import edgeseed.edgeseedmodule.core.selfTest
import edgeseed.edgeseedmodule.core.topK
import java.io.File
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test

/** The platform-free core on the JVM: `./gradlew test`. */
class CoreTest {
    private val assets = File(System.getProperty("edgeseed.assets") ?: "src/main/assets/edgeseedmodule")
    private val set = Conformance { read("conformance/$it") }

    private fun read(name: String) = File(assets, name).readBytes()

    /** What the export says the model answers: stands in for the model, which has no JVM build. */
    private fun goldenOutputs(): (FloatArray) -> Map<String, FloatArray> {
        var next = 0
        val golden = listOf("embedding", "logits").filter { File(assets, "golden/$it.npy").exists() }
        val arrays = golden.associateWith { NumpyArray.read(read("golden/$it.npy")) }
        return {
            val photo = next++
            arrays.mapValues { (_, array) ->
                val width = array.shape[1]
                array.floats().copyOfRange(photo * width, (photo + 1) * width)
            }
        }
    }

    @Test
    fun everyPhotoOfTheConformanceSetGivesTheBytesOfPython() {
        assertEquals(emptyList<String>(), set.checkCore(::decodePng))
    }

    @Test
    fun everyKnownMistakeChangesTheSetAndIsNamed() {
        assertEquals(emptyList<String>(), set.checkFaults(::decodePng))
    }

    @Test
    fun theSelfTestPassesOnGoldenPhotosAndConformanceSet() {
        val report = selfTest(ModelInfo.preprocess, ::read, ::decodeFile, run = goldenOutputs())
        assertTrue(report.toString(), report.passed)
        assertTrue(report.numPhotos > 0)
    }

    @Test
    fun theSelfTestNamesEachPlantedMistake() {
        for (fault in Fault.entries) {
            val report = selfTest(
                ModelInfo.preprocess,
                ::read,
                { careless(decodeFile(it), fault) },
                tensor = { photo, sizes -> sizes.tensor(photo, fault) },
                run = goldenOutputs(),
            )
            assertTrue("${fault.id}: $report", !report.passed && "(${fault.id})" in report.toString())
        }
    }

    /** A decoder that drops what it should say of the pixels. */
    private fun careless(photo: Photo, fault: Fault) = Photo(
        photo.pixels,
        photo.width,
        photo.height,
        photo.pixelStride,
        photo.rowStride,
        alpha = photo.alpha,
        orientation = if (fault == Fault.ORIENTATION_IGNORED) 1 else photo.orientation,
        profile = if (fault == Fault.P3_AS_SRGB) Profile.SRGB else photo.profile,
    )

    @Test
    fun aRowOfPixelsHoldsWhatThePlanesDo() {
        val preprocess = ModelInfo.preprocess
        val inputs = NumpyArray.read(read("golden/inputs.npy")).bytes()
        val channels = preprocess.channels
        val size = preprocess.count / channels
        for (name in listOf("golden/000.png", "conformance/photos/tall.png")) {
            val photo = decodeFile(read(name))
            val planes = preprocess.pixels(photo)
            val rows = preprocess.rows(photo)
            for (i in rows.indices) assertEquals(planes[i % channels * size + i / channels], rows[i])
            assertTrue(rows.contentEquals(preprocess.rows(preprocess.tensor(photo, null))))
            if (name.startsWith("golden")) {
                assertTrue(planes.contentEquals(inputs.copyOf(preprocess.count)))
            }
        }
    }

    @Test
    fun wrongOutputsFailTheSelfTest() {
        val golden = goldenOutputs()
        val run = { input: FloatArray ->
            golden(input).mapValues { (_, values) -> values.map { it * 1.2f }.toFloatArray() }
        }
        val report = selfTest(ModelInfo.preprocess, ::read, ::decodeFile, run = run)
        assertTrue(report.toString(), !report.passed && report.largestInputDifference == 0f)
    }

    @Test
    fun theMostProbableClassesComeFirst() {
        val found = topK(floatArrayOf(1f, 3f, 3f, -1f), listOf("a", "b", "c", "d"), 3)
        assertEquals(listOf("b", "c", "a"), found.map { it.label })
        assertEquals(0.4642, found[0].probability, 1e-3)
    }

    @Test
    fun aMeasurementMeetsBothMinimaOfItsProtocol() {
        var now = 0L
        val timings = measure(Protocol.RAPID, { now }, { now / 2 }) { now += 10_000_000 }
        assertTrue(timings.steady)
        assertEquals(600, timings.samplesNs.size)
        assertEquals(6_000_000_000, timings.elapsedNs)
        assertEquals(timings.elapsedNs / 2, timings.cpuNs)
        assertTrue(timings.samplesNs.all { it == 10_000_000L })
    }

    @Test
    fun theMeasurementHoldsEverySampleAndItsRequest() {
        var now = 0L
        val timings = measure(Protocol.RAPID, { now }, { now / 2 }) { now += 10_000_000 }
        val report = SelfTestReport(emptyList(), 4, 0f, mapOf("embedding" to 1e-6), 1e-3)
        val facts = DeviceFacts(
            model = "a \"quoted\" phone",
            cpu = "SM8550",
            architecture = "arm64-v8a",
            system = "Android 14",
            logicalCores = 8,
            memoryMib = 8000.0,
            engine = ModelInfo.RUNTIME,
            engineVersion = "1.29.0",
            unit = "cpu",
            threads = 4,
            settings = mapOf("threads" to 4),
            residentMib = null,
            facts = Pair(mapOf("thermal status" to "0"), mapOf("thermal status" to "1")),
            limitations = listOf("a fake"),
        )
        val text = measurementJson("ab", Protocol.RAPID, facts, report, 5, 7, timings)
        assertTrue(text, "\"min_runs\":64" in text && "\"a \\u0022quoted\\u0022 phone\"" in text)
        assertEquals(600, Regex("10000000").findAll(text.substringBefore("elapsed_ns")).count())
        System.getProperty("edgeseed.measurement")?.let { File(it).writeText(text) }
    }
}
