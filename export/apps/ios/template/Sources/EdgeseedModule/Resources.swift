import EdgeseedModuleCore
import Foundation

/// The files that travel with the module: model, labels, golden photos and the conformance set.
///
/// Their folder is not called Resources: iOS takes a bundle with such a folder for one of another
/// layout, and does not sign it.
enum Resources {
  static func url(_ path: String) throws -> URL {
    guard let root = Bundle.module.url(forResource: "ModelFiles", withExtension: nil) else {
      throw FileError("the module has no resources: \(Bundle.module.bundlePath)")
    }
    return root.appendingPathComponent(path)
  }

  static func read(_ path: String) throws -> Data { try Data(contentsOf: url(path)) }

  static func labels() throws -> [String] {
    try JSONDecoder().decode([String].self, from: read("labels.json"))
  }
}
