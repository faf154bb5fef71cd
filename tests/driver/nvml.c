// libnvidia-ml.so.1 without a GPU, for tests/driver/main.rs: what others hold of a GPU's memory (FAKE_OTHERS), and what
// is free (FAKE_FREE). What else air asks it for is not there, and then not known.

#include <stdio.h>
#include <stdlib.h>

typedef struct { unsigned version; unsigned long long total, reserved, free, used; } memory;

static unsigned long long setting(const char *name, unsigned long long otherwise) {
    const char *text = getenv(name);
    return text ? strtoull(text, 0, 10) : otherwise;
}

int nvmlInit_v2(void) { return 0; }
int nvmlShutdown(void) { return 0; }
int nvmlSystemGetDriverVersion(char *text, unsigned bytes) { return snprintf(text, bytes, "580.82.07") < 0; }
int nvmlDeviceGetHandleByPciBusId_v2(const char *bus, const void **device) { return *device = bus, !bus; }
int nvmlDeviceGetMemoryInfo_v2(const void *device, memory *info) {
    info->free = setting("FAKE_FREE", 1 << 30), info->used = setting("FAKE_OTHERS", 0);
    info->reserved = 1 << 20, info->total = info->free + info->used + info->reserved;
    return !device;
}
