package edgeseed.edgeseedmodule

import androidx.test.ext.junit.runners.AndroidJUnit4
import androidx.test.platform.app.InstrumentationRegistry
import edgeseed.edgeseedmodule.core.Photo
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test
import org.junit.runner.RunWith

/** On a phone or emulator: `./gradlew connectedAndroidTest`. */
@RunWith(AndroidJUnit4::class)
class DeviceTest {
    private val context = InstrumentationRegistry.getInstrumentation().targetContext

    @Test
    fun goldenPhotosGiveTheOutputsOfTheExport() {
        for (engine in Engine.entries) {
            Model(context, engine).use { model ->
                val report = model.selfTest()
                assertTrue("$engine: $report", report.passed)
            }
        }
    }

    @Test
    fun aBatchGivesWhatItsPhotosGiveAlone() {
        val grey = Photo(ByteArray(32 * 32 * 3) { 90 }, 32, 32, pixelStride = 3)
        val ramp = Photo(ByteArray(32 * 32 * 3) { (it % 200).toByte() }, 32, 32, pixelStride = 3)
        Embedder(context).use { embedder ->
            val together = embedder.embed(listOf(grey, ramp))
            assertEquals(ModelInfo.EMBEDDING_DIM, together[0].size)
            for ((photo, expected) in listOf(grey, ramp).zip(together)) {
                val alone = embedder.embed(photo)
                val scale = expected.maxOf { Math.abs(it) }
                for (i in alone.indices) assertEquals(expected[i], alone[i], 1e-3f * scale)
            }
        }
    }
}
