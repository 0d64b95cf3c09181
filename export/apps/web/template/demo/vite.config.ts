import { defineConfig } from "vite";

// Threads exist in cross-origin isolated pages only.
const headers = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
};

export default defineConfig({
  base: "./",
  publicDir: "public",
  server: { headers },
  preview: { headers },
  // Its .wasm file is found beside its own module, which bundling for development would move.
  optimizeDeps: { exclude: ["onnxruntime-web"] },
  build: { target: "es2022", outDir: "dist", emptyOutDir: true },
});
