// A CUDA driver without a GPU, for tests/driver/main.rs: the calls that air makes, over ordinary memory.
//
// Copies, fills and events wait in a queue until somebody synchronises, as late as the real driver may do them: whoever
// reuses pinned memory too early sends the wrong bytes. Addresses are checked against what was allocated. A launch only
// prints what it was asked. FAKE_* in the environment says which GPU this is and what fails.

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef unsigned long long address;

enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, NOT_FOUND = 500, ILLEGAL_ADDRESS = 700 };

static long setting(const char *name, long otherwise) {
    const char *text = getenv(name);
    return text ? atol(text) : otherwise;
}

// Allocations.
static struct { address at; size_t bytes; } allocated[4096];
static size_t count, held;

static int inside(address at, size_t bytes) {
    for (size_t i = 0; i < count; i++) {
        if (at >= allocated[i].at && at + bytes <= allocated[i].at + allocated[i].bytes) return 1;
    }
    return 0;
}

// Work that nobody waited for yet; a null source is a fill with zeros.
static struct { void *to; const void *from; size_t bytes; } queue[1 << 16];
static size_t done, asked;

static int ask(void *to, const void *from, size_t bytes) {
    if (asked == sizeof queue / sizeof *queue) return OUT_OF_MEMORY;
    queue[asked].to = to, queue[asked].from = from, queue[asked].bytes = bytes;
    asked++;
    return SUCCESS;
}

static void work_until(size_t end) {
    for (; done < end; done++) {
        if (queue[done].from) memcpy(queue[done].to, queue[done].from, queue[done].bytes);
        else memset(queue[done].to, 0, queue[done].bytes);
    }
    if (done == asked) done = asked = 0;
}

int cuInit(unsigned flags) { return (int)setting("FAKE_INIT", SUCCESS) + (int)flags; }
int cuDriverGetVersion(int *version) { return *version = (int)setting("FAKE_VERSION", 13000), SUCCESS; }
int cuDeviceGetCount(int *n) { return *n = (int)setting("FAKE_COUNT", 1), SUCCESS; }
int cuDeviceGet(int *device, int index) {
    return *device = index, index < setting("FAKE_COUNT", 1) ? SUCCESS : INVALID_VALUE;
}
int cuDeviceGetName(char *name, int size, int device) {
    return snprintf(name, (size_t)size, "Fake %d", device), SUCCESS;
}
int cuDeviceGetPCIBusId(char *name, int size, int device) {
    return snprintf(name, (size_t)size, "0000:%02x:00.0", device), SUCCESS;
}
int cuDeviceTotalMem_v2(size_t *bytes, int device) { return *bytes = 1u << 30, device < 0; }
int cuDeviceGetAttribute(int *value, int which, int device) {
    long capability = setting("FAKE_CAPABILITY", 90);
    switch (which) {
        case 16: *value = 132; break;                     // multiprocessors
        case 75: *value = (int)(capability / 10); break;
        case 76: *value = (int)(capability % 10); break;
        case 97: *value = 227 << 10; break;               // shared memory of a block
        default: return INVALID_VALUE;
    }
    return device < 0;
}

int cuDevicePrimaryCtxRetain(void **context, int device) { return *context = &count, device < 0; }
int cuDevicePrimaryCtxRelease_v2(int device) { return device < 0; }
int cuCtxSetCurrent(void *context) { return context == &count ? SUCCESS : INVALID_VALUE; }
// The first stream is for work, the second for panels; both wait in the one queue, so the second is checked by name only.
static char second;
static int streams;
static int is_stream(const void *stream) { return stream == &done || stream == &second; }
int cuStreamCreate(void **stream, unsigned flags) {
    return *stream = streams++ % 2 ? (void *)&second : (void *)&done, flags != 1;
}
int cuStreamDestroy_v2(void *stream) { return !is_stream(stream); }
int cuStreamWaitEvent(void *stream, size_t *event, unsigned flags) { return !is_stream(stream) || !event || flags; }
int cuStreamSynchronize(void *stream) {
    work_until(asked);
    return is_stream(stream) ? (int)setting("FAKE_SYNC", SUCCESS) : INVALID_VALUE;
}

// An event is how far the queue was.
int cuEventCreate(size_t **event, unsigned flags) {
    return *event = calloc(1, sizeof **event), flags != 2 && flags;
}
// Whatever lies between takes two milliseconds.
int cuEventElapsedTime_v2(float *ms, size_t *from, size_t *to) { return *ms = 2, !from || !to; }
int cuEventDestroy_v2(size_t *event) { return free(event), SUCCESS; }
int cuEventRecord(size_t *event, void *stream) { return *event = asked, !is_stream(stream); }
int cuEventSynchronize(size_t *event) {
    if (*event > done && *event <= asked) work_until(*event);
    return SUCCESS;
}

int cuMemAlloc_v2(address *at, size_t bytes) {
    // Others may take some after they were asked for what is free, or all that a first piece leaves.
    long rest = setting("FAKE_FREE", 1 << 30) - setting("FAKE_TAKEN", 0);
    if ((long)(held + bytes) > rest || count == 4096 || (count && getenv("FAKE_GREEDY"))) return OUT_OF_MEMORY;
    // Not zero, and never the end of something else.
    void *memory = aligned_alloc(256, (bytes + 511) / 256 * 256);
    memset(memory, 0xA5, bytes);
    allocated[count].at = *at = (address)(uintptr_t)memory, allocated[count++].bytes = bytes;
    held += bytes;
    return SUCCESS;
}
// Bytes that were not zero when they were given back, or are there at the end.
static size_t left;
static void leave(size_t i) {
    const char *memory = (const char *)(uintptr_t)allocated[i].at;
    for (size_t b = 0; b < allocated[i].bytes; b++) left += memory[b] != 0;
}
int cuMemFree_v2(address at) {
    for (size_t i = 0; i < count; i++) {
        if (allocated[i].at != at) continue;
        leave(i);
        held -= allocated[i].bytes;
        free((void *)(uintptr_t)at);
        allocated[i] = allocated[--count];
        return SUCCESS;
    }
    return INVALID_VALUE;
}
int cuMemGetInfo_v2(size_t *unused, size_t *all) {
    *all = (size_t)setting("FAKE_FREE", 1 << 30);
    return *unused = *all - held, SUCCESS;
}
int cuMemHostAlloc(void **memory, size_t bytes, unsigned flags) {
    return *memory = calloc(1, bytes), flags;  // no flags: not write-combined
}

// Memory of the caller that is held, and bytes of panels that were brought.
static struct { const char *from; size_t bytes; } pins[64];
static size_t told;
static int pinned(const void *from, size_t bytes) {
    for (size_t i = 0; i < 64; i++) {
        const char *at = from;
        if (pins[i].from && pins[i].from <= at && at + bytes <= pins[i].from + pins[i].bytes) return 1;
    }
    return 0;
}
int cuMemHostRegister_v2(void *from, size_t bytes, unsigned flags) {
    if (getenv("FAKE_NO_PINS")) return OUT_OF_MEMORY;
    for (size_t i = 0; i < 64; i++) {
        if (pins[i].from) continue;
        pins[i].from = from, pins[i].bytes = bytes;
        return flags != 1;
    }
    return INVALID_VALUE;
}
int cuMemHostUnregister(void *from) {
    for (size_t i = 0; i < 64; i++) {
        if (pins[i].from == from) return pins[i].from = 0, SUCCESS;
    }
    return INVALID_VALUE;
}
__attribute__((destructor)) static void tell(void) {
    for (size_t i = 0; i < count; i++) leave(i);
    if (getenv("FAKE_TOLD")) fprintf(stderr, "left %zu bytes, brought %zu bytes\n", left, told);
}
int cuMemFreeHost(void *memory) { return free(memory), SUCCESS; }
int cuMemsetD8Async(address at, unsigned char value, size_t bytes, void *stream) {
    if (!inside(at, bytes) || value || stream != &done) return INVALID_VALUE;
    return ask((void *)(uintptr_t)at, 0, bytes);
}
int cuMemcpyHtoDAsync_v2(address to, const void *from, size_t bytes, void *stream) {
    if (!inside(to, bytes) || !is_stream(stream)) return INVALID_VALUE;
    if (stream == &second) {
        told += bytes;
        if (!pinned(from, bytes) && !getenv("FAKE_NO_PINS")) return INVALID_VALUE;
    }
    return ask((void *)(uintptr_t)to, from, bytes);
}
int cuMemcpyDtoHAsync_v2(void *to, address from, size_t bytes, void *stream) {
    if (!inside(from, bytes) || stream != &done) return INVALID_VALUE;
    return ask(to, (const void *)(uintptr_t)from, bytes);
}
int cuMemcpyDtoDAsync_v2(address to, address from, size_t bytes, void *stream) {
    if (!inside(from, bytes) || !inside(to, bytes) || stream != &done) return INVALID_VALUE;
    return ask((void *)(uintptr_t)to, (const void *)(uintptr_t)from, bytes);
}

// A module is its text, a function its name.
int cuModuleLoadData(const void **module, const char *text) {
    *module = text;
    return strstr(text, ".entry") ? (int)setting("FAKE_COMPILE", SUCCESS) : INVALID_VALUE;
}
int cuModuleUnload(const void *module) { return !module; }
int cuModuleGetFunction(char **function, const char *module, const char *name) {
    char entry[256];
    snprintf(entry, sizeof entry, ".entry %s(", name);
    return *function = strdup(name), strstr(module, entry) ? SUCCESS : NOT_FOUND;
}
int cuFuncSetAttribute(const char *function, int which, int value) {
    if (which != 8 || !function) return INVALID_VALUE;
    return fprintf(stderr, "shared %s %d\n", function, value), SUCCESS;
}
static int captured = -1;
int cuLaunchKernel(const char *function, unsigned x, unsigned y, unsigned z, unsigned tx, unsigned ty, unsigned tz,
                   unsigned shared, void *stream, void **params, void **extra) {
    if (stream != &done || extra || ty != 1 || tz != 1) return INVALID_VALUE;
    if (captured >= 0) return captured++, SUCCESS;
    if (getenv("FAKE_TOLD")) {
        fprintf(stderr, "launch %s %u %u %u, %u threads, %u shared, first byte %d\n", function, x, y, z, tx, shared,
                *(unsigned char *)params[0]);
    }
    return SUCCESS;
}

// While a stream is captured launches are counted, and a graph is their number.
int cuStreamBeginCapture_v2(void *stream, int mode) { return captured = 0, mode != 1 || stream != &done; }
int cuStreamEndCapture(void *stream, size_t **graph) {
    *graph = malloc(sizeof **graph);
    return **graph = (size_t)captured, captured = -1, stream != &done;
}
int cuGraphInstantiateWithFlags(size_t **exec, size_t *graph, unsigned long long flags) {
    *exec = malloc(sizeof **exec);
    return **exec = *graph, flags || getenv("FAKE_NO_GRAPHS") ? INVALID_VALUE : SUCCESS;
}
int cuGraphDestroy(size_t *graph) { return free(graph), SUCCESS; }
int cuGraphExecDestroy(size_t *exec) { return free(exec), SUCCESS; }
int cuGraphLaunch(size_t *exec, void *stream) {
    if (getenv("FAKE_TOLD")) fprintf(stderr, "graph of %zu launches\n", *exec);
    return stream != &done;
}

int cuGetErrorName(int error, const char **name) {
    switch (error) {
        case OUT_OF_MEMORY: *name = "CUDA_ERROR_OUT_OF_MEMORY"; break;
        case ILLEGAL_ADDRESS: *name = "CUDA_ERROR_ILLEGAL_ADDRESS"; break;
        default: *name = "CUDA_ERROR_OTHER";
    }
    return SUCCESS;
}
int cuGetErrorString(int error, const char **text) { return *text = "in the fake's words", error < 0; }
