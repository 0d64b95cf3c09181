/* A libcuda whose memory is the host's: what runtime/engines/_cuda.py calls, and no more. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int number(const char *name, int otherwise) {
  const char *text = getenv(name);
  return text ? atoi(text) : otherwise;
}

int cuInit(unsigned flags) { return number("FAKE_CUDA_STATUS", 0) + (int)flags; }
int cuDriverGetVersion(int *version) { *version = 12060; return 0; }
int cuDeviceGetCount(int *count) { *count = number("FAKE_GPUS", 1); return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return 0; }
int cuDeviceGetName(char *name, int size, int device) {
  const char *text = getenv("FAKE_GPU");
  (void)device;
  snprintf(name, (size_t)size, "%s", text ? text : "Orin");
  return 0;
}
int cuDeviceGetAttribute(int *value, int attribute, int device) {
  (void)device;
  *value = attribute == 75 ? 8 : 7;
  return 0;
}
int cuDevicePrimaryCtxRetain(void **context, int device) { (void)device; *context = context; return 0; }
int cuDevicePrimaryCtxRelease_v2(int device) { return device; }
int cuCtxSetCurrent(void *context) { return context == 0; }
int cuStreamCreate(void **stream, unsigned flags) { (void)flags; *stream = malloc(8); return 0; }
int cuStreamDestroy_v2(void *stream) { free(stream); return 0; }
int cuStreamSynchronize(void *stream) { return stream == 0; }
int cuMemAlloc_v2(uint64_t *pointer, size_t size) {
  if (size > (size_t)number("FAKE_GPU_BYTES", 1 << 30)) return 2;
  *pointer = (uint64_t)(uintptr_t)malloc(size);
  return 0;
}
int cuMemFree_v2(uint64_t pointer) { free((void *)(uintptr_t)pointer); return 0; }
int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t size, void *stream) {
  memcpy((void *)(uintptr_t)to, from, size);
  return stream == 0;
}
int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t size, void *stream) {
  memcpy(to, (void *)(uintptr_t)from, size);
  return stream == 0;
}
