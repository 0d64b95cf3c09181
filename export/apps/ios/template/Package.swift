// swift-tools-version: 5.9
import PackageDescription

let package = Package(
  name: "EdgeseedModule",
  platforms: [.iOS(.v17), .macOS(.v14)],
  products: [
    .library(name: "EdgeseedModule", targets: ["EdgeseedModule"])
  ],
  targets: [
    // Preprocessing, top-k, gallery and self-test: plain Swift, which Linux tests as well.
    .target(name: "EdgeseedModuleCore"),
    // The model and everything of Apple's frameworks.
    .target(
      name: "EdgeseedModule",
      dependencies: ["EdgeseedModuleCore"],
      resources: [.copy("ModelFiles")]
    ),
    .testTarget(name: "EdgeseedModuleTests", dependencies: ["EdgeseedModule"]),
  ]
)
