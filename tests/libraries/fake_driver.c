/* Stands in for libcuda.so.1: FAKE_DRIVER_GPUS devices, and FAKE_DRIVER_FAILS names the function
 * that fails. */
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int status(const char* function) {
  const char* failing = getenv("FAKE_DRIVER_FAILS");
  return failing != NULL && strcmp(failing, function) == 0 ? 77 : 0;
}

int cuInit(unsigned flags) { return flags == 0 ? status("cuInit") : 1; }

int cuGetErrorName(int error, const char** name) {
  *name = error == 77 ? "CUDA_ERROR_UNLUCKY" : NULL;
  return *name == NULL;
}

int cuDriverGetVersion(int* version) {
  *version = 13010;
  return status("cuDriverGetVersion");
}

int cuDeviceGetCount(int* count) {
  const char* gpus = getenv("FAKE_DRIVER_GPUS");
  *count = gpus == NULL ? 2 : atoi(gpus);
  return status("cuDeviceGetCount");
}

/* A device is 7 more than its number, as it need not be the number. */
int cuDeviceGet(int* device, int ordinal) {
  *device = ordinal + 7;
  return status("cuDeviceGet");
}

int cuDeviceGetName(char* name, int size, int device) {
  snprintf(name, size, "Fake %d", device - 7);
  return status("cuDeviceGetName");
}

int cuDeviceTotalMem_v2(size_t* bytes, int device) {
  *bytes = (size_t)(device - 2) << 32;
  return status("cuDeviceTotalMem_v2");
}

int cuDeviceGetAttribute(int* value, int attribute, int device) {
  *value = attribute == 75 ? (device == 7 ? 12 : 8) : attribute == 76 ? (device == 7 ? 1 : 9) : 99;
  return status("cuDeviceGetAttribute");
}
