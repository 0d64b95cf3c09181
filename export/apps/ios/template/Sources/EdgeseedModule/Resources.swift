import EdgeseedModuleCore
import Foundation

/// The files that travel with the module: model, labels, golden photos and the conformance set.
enum Resources {
  static func url(_ path: String) throws -> URL {
    guard let root = Bundle.module.url(forResource: "Resources", withExtension: nil) else {
      throw FileError("the module has no resources: \(Bundle.module.bundlePath)")
    }
    return root.appendingPathComponent(path)
  }

  static func read(_ path: String) throws -> Data { try Data(contentsOf: url(path)) }

  static func labels() throws -> [String] {
    try JSONDecoder().decode([String].self, from: read("labels.json"))
  }
}
