#if canImport(CoreML)
  import EdgeseedModuleCore
  import Foundation

  extension Model {
    /// Measures the model's latency and writes `measurement.json`, which `edgeseed profile
    /// --measurement` takes: golden photos first, then one photo after the other.
    ///
    /// - Parameters:
    ///   - rules: How long to measure.
    ///   - file: Where `measurement.json` goes.
    ///   - units: Which processors may run the model.
    /// - Throws: `FileError` if the golden photos do not pass; nothing is timed then.
    public static func benchmark(
      _ rules: MeasurementProtocol = .quick, to file: URL, units: ComputeUnits = .all
    ) throws {
      let clock = { Int64(DispatchTime.now().uptimeNanoseconds) }
      let loading = clock()
      let model = try Model(units: units)
      let loaded = clock()
      let size = ModelInfo.preprocess.imageSize
      _ = try model.run([UInt8](repeating: 127, count: size * size * 3))
      let firstRun = clock() - loaded
      let report = try model.selfTest()
      guard report.passed else { throw FileError(report.description) }
      let golden = try NumpyArray(Resources.read("golden/inputs.npy")).bytes
      let area = size * size
      let square = (0..<3 * area).map { golden[$0 % 3 * area + $0 / 3] }
      let heat = ProcessInfo.processInfo.thermalState
      let timings = try EdgeseedModuleCore.measure(
        rules, clock: clock, cpuClock: cpuTime, run: { _ = try model.run(square) })
      let process = ProcessInfo.processInfo
      let values: [String: Any] = [
        "schema_version": 1,
        "runner": "apple-app",
        "edgeseed": ModelInfo.edgeseedVersion,
        "bundle_digest": ModelInfo.bundleDigest,
        "protocol": rules.rawValue,
        "engine": "coreml",
        "engine_version": process.operatingSystemVersionString,
        "machine": [
          "model": hardware(), "system": process.operatingSystemVersionString,
          "usable_cores": process.activeProcessorCount,
          "memory_mib": Double(process.physicalMemory) / 1_048_576,
        ] as [String: Any],
        "load_ns": loaded - loading,
        "first_run_ns": firstRun,
        "golden": [
          "n": report.numPhotos, "relative_error": report.relativeErrors,
        ] as [String: Any],
        "placement": ["requested": units.rawValue, "actual": units.rawValue],
        "samples_ns": timings.samplesNs,
        "elapsed_ns": timings.elapsedNs,
        "cpu_ns": timings.cpuNs,
        "warm_up": [
          "runs": timings.warmUpRuns, "seconds": Double(timings.warmUpNs) / 1e9,
          "steady": timings.steady,
        ] as [String: Any],
        "thermal_state": [heat.rawValue, process.thermalState.rawValue],
        "low_power_mode": process.isLowPowerModeEnabled,
      ]
      let data = try JSONSerialization.data(withJSONObject: values, options: .sortedKeys)
      try data.write(to: file, options: .atomic)
    }
  }

  private func cpuTime() -> Int64 {
    Int64(clock_gettime_nsec_np(CLOCK_PROCESS_CPUTIME_ID))
  }

  /// Such as `iPhone16,1`.
  private func hardware() -> String {
    var size = 0
    sysctlbyname("hw.machine", nil, &size, nil, 0)
    var name = [CChar](repeating: 0, count: max(size, 1))
    sysctlbyname("hw.machine", &name, &size, nil, 0)
    return String(cString: name)
  }
#endif
