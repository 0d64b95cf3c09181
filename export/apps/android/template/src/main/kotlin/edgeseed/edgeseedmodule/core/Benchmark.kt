package edgeseed.edgeseedmodule.core

/**
 * How long to measure: until both minima are met, and never past [maxSeconds].
 *
 * The protocols are edgeseed's (`edgeseed profile --protocol`).
 */
enum class Protocol(val minRuns: Int, val minSeconds: Double, val maxSeconds: Double) {
    RAPID(64, 6.0, 60.0),
    QUICK(128, 10.0, 100.0),
    NORMAL(1024, 60.0, 600.0),
    SUSTAINED(1024, 600.0, 1200.0),
}

/** Raw durations of one measurement in nanoseconds, in the order in which they happened. */
class Timings(
    val samplesNs: LongArray,
    val elapsedNs: Long,
    val cpuNs: Long,
    val warmUpRuns: Int,
    val warmUpNs: Long,
    val steady: Boolean,
)

/**
 * Warms [run] up until its medians settle, then calls it until [protocol] is met.
 *
 * @param clock a monotonic clock in nanoseconds.
 * @param cpuClock CPU time of the process in nanoseconds.
 */
fun measure(
    protocol: Protocol,
    clock: () -> Long,
    cpuClock: () -> Long,
    run: () -> Unit,
): Timings {
    var steady = false
    var nextCheck = 10
    val warmUp = repeatUntil(clock, run) { samples, elapsed ->
        val seconds = elapsed / 1e9
        if (samples.size < 10 || seconds < 1.0) return@repeatUntil false
        if (samples.size >= nextCheck) {
            nextCheck = samples.size + maxOf(1, samples.size / 10)
            steady = mediansAgree(samples)
        }
        steady || seconds >= 15.0
    }
    val cpuBefore = cpuClock()
    val timed = repeatUntil(clock, run) { samples, elapsed ->
        val seconds = elapsed / 1e9
        (seconds >= protocol.minSeconds && samples.size >= protocol.minRuns) ||
            seconds >= protocol.maxSeconds
    }
    return Timings(
        timed.first.toLongArray(),
        timed.second,
        cpuClock() - cpuBefore,
        warmUp.first.size,
        warmUp.second,
        steady,
    )
}

private fun repeatUntil(
    clock: () -> Long,
    run: () -> Unit,
    stop: (List<Long>, Long) -> Boolean,
): Pair<List<Long>, Long> {
    val samples = ArrayList<Long>(4096)
    val start = clock()
    while (true) {
        val before = clock()
        run()
        val after = clock()
        samples.add(after - before)
        if (stop(samples, after - start)) return Pair(samples, after - start)
    }
}

/** Whether the newest quarter's median differs by less than 2 % from that of the quarter before. */
private fun mediansAgree(samples: List<Long>): Boolean {
    val quarter = maxOf(1, samples.size / 4)
    val newest = median(samples.takeLast(quarter))
    val before = median(samples.subList(samples.size - 2 * quarter, samples.size - quarter))
    return Math.abs(newest - before) <= 0.02 * before
}

private fun median(samples: List<Long>): Double {
    val sorted = samples.sorted()
    val middle = sorted.size / 2
    return if (sorted.size % 2 == 1) sorted[middle].toDouble()
    else (sorted[middle - 1] + sorted[middle]) / 2.0
}

/**
 * What a device says of itself; null where it does not.
 *
 * @property system name and version of the operating system.
 * @property engine what runs the model, as `edgeseed profile` calls it: `onnxruntime`, `litert`.
 * @property unit what was asked to compute the model: `cpu`, `xnnpack`.
 * @property settings what the engine was opened with.
 * @property facts other facts before and after the timed runs, by name.
 */
class DeviceFacts(
    val model: String?,
    val cpu: String,
    val architecture: String,
    val system: String,
    val logicalCores: Int,
    val memoryMib: Double?,
    val engine: String,
    val engineVersion: String,
    val unit: String,
    val threads: Int,
    val settings: Map<String, Any?>,
    val residentMib: Double?,
    val facts: Pair<Map<String, String>, Map<String, String>>,
    val limitations: List<String>,
)

/** `measurement.json`, as edgeseed's docs/measurement.md specifies it. */
fun measurementJson(
    bundleDigest: String,
    protocol: Protocol,
    device: DeviceFacts,
    report: SelfTestReport,
    loadNs: Long,
    firstRunNs: Long,
    timings: Timings,
): String {
    val noMemory = mapOf("resident_mib" to null, "peak_mib" to null)
    val noLoad = mapOf("other_cores" to null, "stolen_cores" to null, "load_average" to null)
    fun state(facts: Map<String, String>) = mapOf("facts" to facts, "throttling" to emptyList<String>())
    return toJson(
        mapOf(
            "schema_version" to 1,
            "runner" to "android-app",
            "request" to mapOf(
                "bundle_digest" to bundleDigest,
                "engine" to device.engine,
                "threads" to device.threads,
                "protocol" to protocol.name.lowercase(),
                "min_runs" to protocol.minRuns,
                "min_seconds" to protocol.minSeconds,
                "max_seconds" to protocol.maxSeconds,
            ),
            "machine" to mapOf(
                "model" to device.model,
                "cpu" to device.cpu,
                "architecture" to device.architecture,
                "system" to device.system,
                "python" to null,
                "logical_cores" to device.logicalCores,
                "usable_cores" to device.logicalCores,
                "cpu_quota" to null,
                "memory_mib" to device.memoryMib,
                "governors" to emptyList<String>(),
                "frequency_mhz" to emptyMap<String, Double>(),
                "container" to null,
                "virtual_machine" to null,
            ),
            "engine_version" to device.engineVersion,
            "settings" to device.settings,
            "load_ns" to loadNs,
            "first_run_ns" to firstRunNs,
            "placement" to mapOf("requested" to device.unit, "actual" to device.unit, "nodes" to null),
            "golden" to mapOf(
                "n" to report.numPhotos,
                "relative_error" to report.relativeErrors,
                "tolerance" to report.tolerance,
            ),
            "samples_ns" to timings.samplesNs,
            "elapsed_ns" to timings.elapsedNs,
            "cpu_ns" to timings.cpuNs,
            "warm_up" to mapOf(
                "runs" to timings.warmUpRuns,
                "seconds" to timings.warmUpNs / 1e9,
                "steady" to timings.steady,
            ),
            "thermals" to listOf(null, null),
            "load_before" to noLoad + mapOf("seconds" to 0.0),
            "load_during" to noLoad + mapOf("seconds" to timings.elapsedNs / 1e9),
            "memory_before" to noMemory,
            "memory_library" to noMemory,
            "memory_model" to mapOf("resident_mib" to device.residentMib, "peak_mib" to null),
            "power" to null,
            "power_unavailable" to "an app cannot read the energy of its own runs",
            "state_before" to state(device.facts.first),
            "state_after" to state(device.facts.second),
            "limitations" to device.limitations,
        ),
    )
}

/** Values as JSON in ASCII: maps, lists, texts, numbers, booleans and null. */
fun toJson(value: Any?): String = when (value) {
    null -> "null"
    is String -> Json.quote(value)
    is Boolean, is Int, is Long -> value.toString()
    is Float -> toJson(value.toDouble())
    is Double -> if (value.isFinite()) value.toString() else "null"
    is LongArray -> value.joinToString(",", "[", "]")
    is List<*> -> value.joinToString(",", "[", "]") { toJson(it) }
    is Map<*, *> ->
        value.entries.joinToString(",", "{", "}") { "${Json.quote(it.key as String)}:${toJson(it.value)}" }
    else -> throw IllegalArgumentException("${value::class.simpleName} in JSON")
}
