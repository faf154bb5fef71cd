// libcufile.so.0 and libnccl.so.2 without a GPU, for tests/driver/main.rs: FAKE_* in the environment says what they find.
//
// What air asks in which order is printed; what it does not call yet is only there, because air takes no library that
// lacks a function it binds.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct { int err, cu_err; } ended;
typedef struct {
    struct { unsigned major, minor; size_t poll, direct; unsigned status, control; } nvfs;
    unsigned features, cache, buffer, pinned, batch, timeout;
} properties;

static ended with(const char *name) {
    const char *text = getenv(name);
    return (ended){text ? atoi(text) : 0, 7};
}

static unsigned flags(const char *name) {
    const char *text = getenv(name);
    return text ? (unsigned)atoi(text) : 0;
}

ended cuFileGetVersion(int *version) { return *version = 1230, with("FAKE_CUFILE_VERSION"); }
ended cuFileSetParameterString(unsigned which, const char *text) {
    fprintf(stderr, "cufile: parameter %u is %s\n", which, text);
    return with("FAKE_CUFILE_PARAMETER");
}
ended cuFileDriverOpen(void) {
    printf("as NVIDIA's does, where it finds no driver\n");
    return fprintf(stderr, "cufile: open\n"), with("FAKE_CUFILE_OPEN");
}
ended cuFileDriverClose_v2(void) { return fprintf(stderr, "cufile: close\n"), with("FAKE_CUFILE_CLOSE"); }
ended cuFileDriverGetProperties(properties *p) {
    memset(p, 0xFF, sizeof *p);
    p->nvfs.major = 2, p->nvfs.minor = 26;
    p->nvfs.status = flags("FAKE_CUFILE_STATUS"), p->nvfs.control = flags("FAKE_CUFILE_CONTROL");
    return with("FAKE_CUFILE_PROPERTIES");
}

int ncclGetVersion(int *version) { return *version = 22707, with("FAKE_NCCL").err; }
const char *ncclGetErrorString(int error) { return error == 2 ? "the fake's system error" : "?"; }

#define THERE(name) void name(void) { abort(); }
THERE(cuFileHandleRegister)
THERE(cuFileHandleDeregister)
THERE(cuFileBufRegister)
THERE(cuFileBufDeregister)
THERE(cuFileRead)
THERE(ncclGetUniqueId)
THERE(ncclCommInitRank)
THERE(ncclCommDestroy)
THERE(ncclAllReduce)
THERE(ncclBroadcast)
THERE(ncclGroupStart)
THERE(ncclGroupEnd)
