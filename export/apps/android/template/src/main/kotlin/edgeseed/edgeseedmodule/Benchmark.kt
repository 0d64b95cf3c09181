package edgeseed.edgeseedmodule

import android.app.Activity
import android.content.Context
import android.os.Build
import android.os.Bundle
import android.os.Debug
import android.os.PowerManager
import android.util.Log
import edgeseed.edgeseedmodule.core.DeviceFacts
import edgeseed.edgeseedmodule.core.NumpyArray
import edgeseed.edgeseedmodule.core.Protocol
import edgeseed.edgeseedmodule.core.measure
import edgeseed.edgeseedmodule.core.measurementJson
import java.io.File
import kotlin.concurrent.thread

/**
 * Measures the model's latency and writes `measurement.json`, golden photos first.
 *
 * @param file where it goes.
 * @throws IllegalStateException if the golden photos do not pass: nothing is timed then.
 */
fun benchmark(
    context: Context,
    file: File,
    protocol: Protocol = Protocol.QUICK,
    engine: Engine = Engine.DEFAULT,
    threads: Int = 4,
) {
    val loading = System.nanoTime()
    Model(context, engine, threads).use { model ->
        val loaded = System.nanoTime()
        val golden = NumpyArray.read(model.readAsset("golden/inputs.npy"))
        val size = golden.shape.drop(1).fold(1) { product, side -> product * side }
        val bytes = golden.bytes()
        val input = FloatArray(size) { (bytes[it].toInt() and 255).toFloat() }
        val starting = System.nanoTime()
        model.run(input)
        val firstRun = System.nanoTime() - starting
        val report = model.selfTest()
        check(report.passed) { report.toString() }
        val before = stateOf(context)
        val timings = measure(
            protocol,
            clock = System::nanoTime,
            cpuClock = { android.os.Process.getElapsedCpuTime() * 1_000_000 },
        ) { model.run(input) }
        val facts = deviceFacts(engine, threads, Pair(before, stateOf(context)))
        val digest = ModelInfo.BUNDLE_DIGEST
        val text =
            measurementJson(digest, protocol, facts, report, loaded - loading, firstRun, timings)
        // Whole or absent: whoever waits for the file must not read a half of it.
        val temporary = File(file.path + ".tmp")
        temporary.writeText(text)
        check(temporary.renameTo(file)) { "$file cannot be written" }
    }
}

private fun deviceFacts(
    engine: Engine,
    threads: Int,
    facts: Pair<Map<String, String>, Map<String, String>>,
) = DeviceFacts(
    model = "${Build.MANUFACTURER} ${Build.MODEL}",
    cpu = if (Build.VERSION.SDK_INT >= 31) Build.SOC_MODEL else Build.HARDWARE,
    architecture = Build.SUPPORTED_ABIS.first(),
    system = "Android ${Build.VERSION.RELEASE} (API ${Build.VERSION.SDK_INT})",
    logicalCores = Runtime.getRuntime().availableProcessors(),
    memoryMib = null,
    engine = ModelInfo.RUNTIME,
    engineVersion = runtimeVersion(),
    unit = engine.name.lowercase(),
    threads = threads,
    settings = mapOf("engine" to engine.name.lowercase(), "threads" to threads),
    residentMib = Debug.getPss() / 1024.0,
    facts = facts,
    limitations = listOf(
        "an app does not see how busy the phone is, nor its clocks",
        "the runtime does not say which layers XNNPACK took",
    ).take(if (engine == Engine.XNNPACK) 2 else 1),
)

private fun stateOf(context: Context): Map<String, String> {
    val power = context.getSystemService(PowerManager::class.java)
    return mapOf(
        "thermal status" to power.currentThermalStatus.toString(),
        "power save mode" to power.isPowerSaveMode.toString(),
    )
}

/**
 * Starts [benchmark] from a computer and ends; `edgeseed profile --device "adb:?runner=app"` does it:
 *
 * ```
 * adb shell am start -n APP/edgeseed.edgeseedmodule.BenchmarkActivity \
 *     --es protocol quick --es engine cpu --ei threads 4
 * adb shell run-as APP cat files/edgeseedmodule/measurement.json
 * ```
 *
 * The file appears when the measurement is done; `error.txt` instead if it failed.
 */
class BenchmarkActivity : Activity() {
    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        val folder = File(filesDir, ModelInfo.ASSETS).apply { mkdirs() }
        val (result, failure) = listOf("measurement.json", "error.txt").map { File(folder, it) }
        result.delete()
        failure.delete()
        val name = intent.getStringExtra("protocol") ?: "quick"
        val engine = intent.getStringExtra("engine") ?: Engine.DEFAULT.name
        val threads = intent.getIntExtra("threads", 4)
        thread {
            try {
                benchmark(
                    applicationContext,
                    result,
                    Protocol.valueOf(name.uppercase()),
                    Engine.valueOf(engine.uppercase()),
                    threads,
                )
            } catch (error: Exception) {
                Log.e("edgeseed", "benchmark failed", error)
                failure.writeText("${error.javaClass.simpleName}: ${error.message}\n")
            }
            runOnUiThread { finish() }
        }
    }
}
