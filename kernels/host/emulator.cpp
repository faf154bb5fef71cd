// Runs a kernel on the host: one block after another, its threads as fibers that take turns.
//
// A fiber runs until it waits for others or returns. A shuffle or a vote completes when all lanes of its mask have come
// to one with the same mask; a barrier when all threads of the block have come to it. If nothing can go on and a
// thread is left, the kernel diverges: that is reported, with who waits where, and the launch fails. Warps and lanes
// run in ascending or descending order, by `order`, so that a missing barrier shows whichever way the data go. Copies
// that a thread begins arrive when it waits for them, and no earlier.
//
// The address sanitizer is told of every change of stacks. Fibers change with a few instructions on x86-64 and by
// `swapcontext` elsewhere (or with AIR_UCONTEXT).
#include "cuda_host.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define ASAN 1
#else
#define ASAN 0
#endif

#if !defined(__x86_64__) || defined(AIR_UCONTEXT)
#include <ucontext.h>
#define UCONTEXT 1
#else
#define UCONTEXT 0
#endif

uint3 threadIdx, blockIdx, blockDim, gridDim;

namespace {

constexpr size_t STACK = 512 << 10;
constexpr uint32_t MOST_THREADS = 1024, WARP = 32, MOST_COPIES = 64;

// A stack to run on, and where it stands when it does not run.
struct Context {
    uint8_t* stack;
    size_t size;
    void* fake;
#if UCONTEXT
    ucontext_t place;
#else
    void* place;
#endif
};

#if !UCONTEXT
asm(R"(
.text
.globl air_switch
.type air_switch, @function
air_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size air_switch, .-air_switch
)");
extern "C" void air_switch(void** from, void* to);
#endif

enum State { READY, IN_BARRIER, IN_EXCHANGE, DONE };

struct Copy {
    void* to;
    const void* from;
    bool there;
};

struct Fiber {
    Context context;
    State state;
    // What the lane gives to an exchange.
    uint32_t mask, count, words[AIR_WORDS];
    // Copies that have begun.
    uint32_t copies;
    Copy copy[MOST_COPIES];
};

struct Warp {
    // Of the last exchange of each lane's group.
    uint32_t words[WARP * AIR_WORDS];
};

Fiber fibers[MOST_THREADS];
Warp warps[MOST_THREADS / WARP];
Context scheduler;
uint32_t running;
void (*body)(const void*);
const void* parameters;
uint8_t* room;
char failure[256];

AIR_UNCHECKED void change(Context& from, Context& to, bool last) {
#if ASAN
    __sanitizer_start_switch_fiber(last ? nullptr : &from.fake, to.stack, to.size);
#else
    (void)last;
#endif
#if UCONTEXT
    swapcontext(&from.place, &to.place);
#else
    air_switch(&from.place, to.place);
#endif
#if ASAN
    __sanitizer_finish_switch_fiber(from.fake, nullptr, nullptr);
#endif
}

void enter() {
#if ASAN
    const void* bottom;
    __sanitizer_finish_switch_fiber(nullptr, &bottom, &scheduler.size);
    scheduler.stack = (uint8_t*)bottom;
#endif
    body(parameters);
    fibers[running].state = DONE;
    change(fibers[running].context, scheduler, true);
}

void prepare(Fiber& f) {
    Context& c = f.context;
    if (!c.stack) {
        c.size = STACK;
        c.stack = (uint8_t*)mmap(nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (c.stack == MAP_FAILED) abort();
    }
    c.fake = nullptr;
    f.state = READY;
    f.copies = 0;
#if ASAN
    // The thread before left from inside `enter`, whose frame is at the top.
    __asan_unpoison_memory_region(c.stack + STACK - 1024, 1024);
#endif
#if UCONTEXT
    getcontext(&c.place);
    c.place.uc_stack.ss_sp = c.stack;
    c.place.uc_stack.ss_size = STACK;
    c.place.uc_link = nullptr;
    makecontext(&c.place, enter, 0);
#else
    // Six registers, where to go, and what it would return to.
    void** top = (void**)(c.stack + STACK) - 8;
    for (int i = 0; i < 8; i++) top[i] = nullptr;
    top[6] = (void*)enter;
    c.place = top;
#endif
}

AIR_UNCHECKED void resume(uint32_t thread) {
    running = thread;
    threadIdx = {thread, 0, 0};
    change(scheduler, fibers[thread].context, false);
}

AIR_UNCHECKED void leave(State state) {
    Fiber& f = fibers[running];
    f.state = state;
    change(f.context, scheduler, false);
}

// Completes exchanges of a warp's lanes; whether there was one.
AIR_UNCHECKED bool exchange(uint32_t warp) {
    Fiber* lanes = fibers + warp * WARP;
    bool any = false;
    for (uint32_t lane = 0; lane < WARP; lane++) {
        if (lanes[lane].state != IN_EXCHANGE) continue;
        const uint32_t mask = lanes[lane].mask;
        bool all = true;
        for (uint32_t i = 0; i < WARP; i++) {
            if (mask >> i & 1) all = all && lanes[i].state == IN_EXCHANGE && lanes[i].mask == mask;
        }
        if (!all) continue;
        for (uint32_t i = 0; i < WARP; i++) {
            if (!(mask >> i & 1)) continue;
            for (uint32_t w = 0; w < lanes[i].count; w++) warps[warp].words[i * AIR_WORDS + w] = lanes[i].words[w];
            lanes[i].state = READY;
        }
        any = true;
    }
    return any;
}

// Says who waits where; at most one of each kind.
void diverged() {
    const char* names[] = {"is ready", "waits at a barrier", "waits in a shuffle or vote", "has returned"};
    size_t at = (size_t)snprintf(failure, sizeof failure, "block (%u, %u, %u): threads diverge:", blockIdx.x,
                                 blockIdx.y, blockIdx.z);
    for (int state = IN_BARRIER; state <= DONE; state++) {
        for (uint32_t t = 0; t < blockDim.x; t++) {
            if (fibers[t].state != state) continue;
            at += (size_t)snprintf(failure + at, sizeof failure - at, " thread %u %s;", t, names[state]);
            break;
        }
    }
}

AIR_UNCHECKED void run_block(uint32_t order) {
    const uint32_t threads = blockDim.x, count = threads / WARP;
    for (uint32_t t = 0; t < threads; t++) prepare(fibers[t]);
    for (;;) {
        for (uint32_t i = 0; i < count; i++) {
            const uint32_t warp = order & 1 ? count - 1 - i : i;
            do {
                for (uint32_t j = 0; j < WARP; j++) {
                    const uint32_t thread = warp * WARP + (order & 2 ? WARP - 1 - j : j);
                    if (fibers[thread].state == READY) resume(thread);
                    if (failure[0]) return;
                }
            } while (exchange(warp));
        }
        uint32_t done = 0, waiting = 0;
        for (uint32_t t = 0; t < threads; t++) {
            done += fibers[t].state == DONE;
            waiting += fibers[t].state == IN_BARRIER;
        }
        if (done == threads) return;
        if (waiting != threads) return diverged();
        for (uint32_t t = 0; t < threads; t++) fibers[t].state = READY;
    }
}

}  // namespace

extern "C" {

void air_barrier() { leave(IN_BARRIER); }

AIR_UNCHECKED const uint32_t* air_exchange(uint32_t mask, const uint32_t* words, uint32_t count) {
    Fiber& f = fibers[running];
    if (!(mask >> (running % WARP) & 1)) air_fail("a lane takes part in a shuffle or vote whose mask does not name it");
    f.mask = mask;
    f.count = count;
    for (uint32_t w = 0; w < count; w++) f.words[w] = words[w];
    leave(IN_EXCHANGE);
    return warps[running / WARP].words;
}

void air_copy_16(void* to, const void* from, bool there) {
    Fiber& f = fibers[running];
    if (f.copies == MOST_COPIES) air_fail("more copies have begun than the emulator keeps");
    f.copy[f.copies++] = {to, from, there};
    memset(to, 0xff, 16);
}

void air_copies_done() {
    Fiber& f = fibers[running];
    for (uint32_t i = 0; i < f.copies; i++) {
        if (f.copy[i].there) memcpy(f.copy[i].to, f.copy[i].from, 16);
        if (!f.copy[i].there) memset(f.copy[i].to, 0, 16);
    }
    f.copies = 0;
}

void air_fail(const char* message) {
    snprintf(failure, sizeof failure, "block (%u, %u, %u), thread %u: %s", blockIdx.x, blockIdx.y, blockIdx.z, running,
             message);
    leave(DONE);
    abort();
}

uint8_t* air_dynamic_shared() { return room; }

// Runs `kernel` (an `air_call_NAME`) on a grid; null, or what went wrong.
const char* air_emulate(void (*kernel)(const void*), const uint32_t* blocks, uint32_t threads, uint32_t shared,
                        uint32_t order, const void* args) {
    body = kernel;
    parameters = args;
    failure[0] = 0;
    if (threads == 0 || threads > MOST_THREADS || threads % WARP) return "a block has 32 to 1024 threads, in warps";
    blockDim = {threads, 1, 1};
    gridDim = {blocks[0], blocks[1], blocks[2]};
    for (uint32_t z = 0; z < blocks[2]; z++) {
        for (uint32_t y = 0; y < blocks[1]; y++) {
            for (uint32_t x = 0; x < blocks[0]; x++) {
                blockIdx = {x, y, z};
                room = shared ? (uint8_t*)aligned_alloc(16, (shared + 15) / 16 * 16) : nullptr;
                if (shared) memset(room, 0xff, shared);
                run_block(order ^ ((x + y + z) & 3));
                free(room);
                if (!failure[0]) continue;
#if ASAN
                for (uint32_t t = 0; t < threads; t++) {
                    __asan_unpoison_memory_region(fibers[t].context.stack, STACK);
                }
#endif
                return failure;
            }
        }
    }
    return nullptr;
}

}  // extern "C"
