import Foundation

/// How long to measure: until both minima are met, and never past `maxSeconds`.
///
/// The protocols are edgeseed's (`edgeseed profile --protocol`).
public enum MeasurementProtocol: String, CaseIterable, Sendable {
  case rapid, quick, normal, sustained

  var minRuns: Int { [.rapid: 64, .quick: 128][self] ?? 1024 }
  var minSeconds: Double { [.rapid: 6, .quick: 10, .normal: 60][self] ?? 600 }
  var maxSeconds: Double { [.rapid: 60, .quick: 100, .normal: 600][self] ?? 1200 }
}

/// Raw durations of one measurement in nanoseconds, in the order in which they happened.
public struct Timings: Sendable {
  public let samplesNs: [Int64]
  public let elapsedNs: Int64
  /// CPU time of the process over all samples.
  public let cpuNs: Int64
  public let warmUpRuns: Int
  public let warmUpNs: Int64
  public let steady: Bool
}

/// Warms `run` up until its medians settle, then calls it until the protocol is met.
///
/// - Parameters:
///   - clock: A monotonic clock in nanoseconds.
///   - cpuClock: CPU time of the process in nanoseconds.
public func measure(
  _ rules: MeasurementProtocol,
  clock: () -> Int64,
  cpuClock: () -> Int64,
  run: () throws -> Void
) rethrows -> Timings {
  var steady = false
  var nextCheck = 10
  let warmUp = try repeated(clock: clock, run: run) { samples, elapsed in
    let seconds = Double(elapsed) / 1e9
    if samples.count < 10 || seconds < 1 { return false }
    if samples.count >= nextCheck {
      nextCheck = samples.count + max(1, samples.count / 10)
      steady = mediansAgree(samples)
    }
    return steady || seconds >= 15
  }
  let cpuBefore = cpuClock()
  let timed = try repeated(clock: clock, run: run) { samples, elapsed in
    let seconds = Double(elapsed) / 1e9
    return (seconds >= rules.minSeconds && samples.count >= rules.minRuns)
      || seconds >= rules.maxSeconds
  }
  return Timings(
    samplesNs: timed.samples, elapsedNs: timed.elapsed, cpuNs: cpuClock() - cpuBefore,
    warmUpRuns: warmUp.samples.count, warmUpNs: warmUp.elapsed, steady: steady)
}

private func repeated(
  clock: () -> Int64, run: () throws -> Void, until stop: ([Int64], Int64) -> Bool
) rethrows -> (samples: [Int64], elapsed: Int64) {
  var samples: [Int64] = []
  samples.reserveCapacity(4096)
  let start = clock()
  while true {
    let before = clock()
    try run()
    let after = clock()
    samples.append(after - before)
    if stop(samples, after - start) { return (samples, after - start) }
  }
}

/// Whether the newest quarter's median differs by less than 2 % from that of the quarter before.
private func mediansAgree(_ samples: [Int64]) -> Bool {
  let quarter = max(1, samples.count / 4)
  let newest = median(samples.suffix(quarter))
  let before = median(samples.dropLast(quarter).suffix(quarter))
  return abs(newest - before) <= 0.02 * before
}

private func median(_ samples: ArraySlice<Int64>) -> Double {
  let sorted = samples.sorted()
  let middle = sorted.count / 2
  if sorted.count % 2 == 1 { return Double(sorted[middle]) }
  return Double(sorted[middle - 1] + sorted[middle]) / 2
}

/// What a device says of itself; nil where it does not.
public struct DeviceFacts: Sendable {
  public var model: String
  public var architecture: String
  public var system: String
  public var cores: Int
  public var memoryMiB: Double
  /// Which processors may run the model.
  public var units: String
  public var residentMiB: Double?
  /// Other facts before and after the timed runs, by name.
  public var before: [String: String]
  public var after: [String: String]
  public var limitations: [String]

  public init(
    model: String, architecture: String, system: String, cores: Int, memoryMiB: Double,
    units: String, residentMiB: Double?, before: [String: String], after: [String: String],
    limitations: [String]
  ) {
    self.model = model
    self.architecture = architecture
    self.system = system
    self.cores = cores
    self.memoryMiB = memoryMiB
    self.units = units
    self.residentMiB = residentMiB
    self.before = before
    self.after = after
    self.limitations = limitations
  }
}

/// `measurement.json`, as edgeseed's docs/measurement.md specifies it.
public func measurementJSON(
  bundleDigest: String, rules: MeasurementProtocol, device: DeviceFacts, report: SelfTestReport,
  loadNs: Int64, firstRunNs: Int64, timings: Timings
) throws -> Data {
  let null = NSNull()
  let noMemory: [String: Any] = ["resident_mib": null, "peak_mib": null]
  func load(_ seconds: Double) -> [String: Any] {
    ["seconds": seconds, "other_cores": null, "stolen_cores": null, "load_average": null]
  }
  let values: [String: Any] = [
    "schema_version": 1,
    "runner": "apple-app",
    "request": [
      "bundle_digest": bundleDigest, "engine": "coreml", "threads": 0, "protocol": rules.rawValue,
      "min_runs": rules.minRuns, "min_seconds": rules.minSeconds, "max_seconds": rules.maxSeconds,
    ] as [String: Any],
    "machine": [
      "model": device.model, "cpu": device.model, "architecture": device.architecture,
      "system": device.system, "python": null, "logical_cores": device.cores,
      "usable_cores": device.cores, "cpu_quota": null, "memory_mib": device.memoryMiB,
      "governors": [String](), "frequency_mhz": [String: Double](), "container": null,
      "virtual_machine": null,
    ] as [String: Any],
    "engine_version": device.system,
    "settings": ["compute_units": device.units],
    "load_ns": loadNs,
    "first_run_ns": firstRunNs,
    "placement": ["requested": device.units, "actual": device.units, "nodes": null]
      as [String: Any],
    "golden": [
      "n": report.numPhotos, "relative_error": report.relativeErrors, "tolerance": report.tolerance,
    ] as [String: Any],
    "samples_ns": timings.samplesNs,
    "elapsed_ns": timings.elapsedNs,
    "cpu_ns": timings.cpuNs,
    "warm_up": [
      "runs": timings.warmUpRuns, "seconds": Double(timings.warmUpNs) / 1e9,
      "steady": timings.steady,
    ] as [String: Any],
    "thermals": [null, null],
    "load_before": load(0),
    "load_during": load(Double(timings.elapsedNs) / 1e9),
    "memory_before": noMemory,
    "memory_library": noMemory,
    "memory_model": ["resident_mib": device.residentMiB as Any? ?? null, "peak_mib": null],
    "power": null,
    "power_unavailable": "an app cannot read the energy of its own runs",
    "state_before": ["facts": device.before, "throttling": [String]()] as [String: Any],
    "state_after": ["facts": device.after, "throttling": [String]()] as [String: Any],
    "limitations": device.limitations,
  ]
  return try JSONSerialization.data(withJSONObject: values, options: .sortedKeys)
}
