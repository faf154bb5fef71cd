// The device's names for a host compiler: what lets kernels/*.cu compile unchanged with g++ and run without a GPU.
//
// Force-included before a kernel's source. Threads of a block are fibers of one host thread (`emulator.cpp`), which
// change places only at barriers, shuffles and votes. Shared memory is static, because one block runs at a time; what
// the launch sizes is allocated for each block, so that an overrun is seen. Only what the kernels use is here.
#pragma once
#define AIR_INTRINSICS

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define __device__
#define __global__
#define __shared__ static

struct alignas(8) uint2 { uint32_t x, y; };
struct alignas(16) uint4 { uint32_t x, y, z, w; };
struct alignas(16) float4 { float x, y, z, w; };
struct uint3 { uint32_t x, y, z; };

inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }

constexpr uint32_t AIR_WORDS = 8;

// Most of the tests' time is spent in these, on what the emulator owns: without the sanitizers' checks.
#define AIR_UNCHECKED __attribute__((no_sanitize("address"), no_sanitize("undefined")))

extern "C" {
// Of the fiber that runs.
extern uint3 threadIdx, blockIdx, blockDim, gridDim;

// Waits for all threads of the block.
void air_barrier();
// Gives up to `AIR_WORDS` words and waits for the lanes of `mask`; the words of those lanes, `AIR_WORDS` for each lane.
const uint32_t* air_exchange(uint32_t mask, const uint32_t* words, uint32_t count);
// Copies 16 bytes, or zeros, when the thread next calls `air_copies_done`; until then what is there is overwritten.
void air_copy_16(void* to, const void* from, bool there);
void air_copies_done();
// Ends the launch with a message.
[[noreturn]] void air_fail(const char* message);
uint8_t* air_dynamic_shared();
}

// Beside the kernel stand what calls it with a pointer to its parameters, and facts for the launcher.
#define KERNEL(name, Args, threads)                                                                                   \
    extern "C" void name(const Args a);                                                                               \
    extern "C" void air_call_##name(const void* args) { name(*(const Args*)args); }                                   \
    extern "C" const uint32_t air_facts_##name[] = {(uint32_t)sizeof(Args), threads};                                 \
    extern "C" void name(const Args a)

inline uint8_t* dynamic_shared() { return air_dynamic_shared(); }

inline void __syncthreads() { air_barrier(); }

template <class T> inline T air_shuffle(uint32_t mask, T x, uint32_t from) {
    static_assert(sizeof(T) == 4, "a word");
    if (from >= 32 || !(mask >> from & 1)) air_fail("a shuffle reads a lane that its mask does not name");
    uint32_t bits;
    memcpy(&bits, &x, 4);
    const uint32_t* all = air_exchange(mask, &bits, 1);
    memcpy(&x, &all[from * AIR_WORDS], 4);
    return x;
}

template <class T> inline T __shfl_xor_sync(uint32_t mask, T x, int lanes) {
    return air_shuffle(mask, x, threadIdx.x % 32 ^ (uint32_t)lanes);
}

template <class T> inline T __shfl_sync(uint32_t mask, T x, uint32_t lane) { return air_shuffle(mask, x, lane % 32); }

inline uint32_t __ballot_sync(uint32_t mask, bool vote) {
    const uint32_t mine = vote;
    const uint32_t* all = air_exchange(mask, &mine, 1);
    uint32_t votes = 0;
    for (uint32_t lane = 0; lane < 32; lane++) {
        votes |= (mask >> lane & 1 && all[lane * AIR_WORDS]) ? 1u << lane : 0;
    }
    return votes;
}

inline int __popc(uint32_t x) { return __builtin_popcount(x); }
inline int __ffs(uint32_t x) { return __builtin_ffs((int)x); }

inline int __dp4a(int a, int b, int sum) {
    for (int i = 0; i < 4; i++) sum += (int8_t)((uint32_t)a >> (8 * i)) * (int8_t)((uint32_t)b >> (8 * i));
    return sum;
}

// Byte i of the result is the one of the eight bytes (those of `a` first) that nibble i of `s` names.
inline uint32_t __byte_perm(uint32_t a, uint32_t b, uint32_t s) {
    const uint64_t all = (uint64_t)b << 32 | a;
    uint32_t out = 0;
    for (int i = 0; i < 4; i++) out |= (uint32_t)(all >> (8 * (s >> (4 * i) & 7)) & 255) << (8 * i);
    return out;
}

// The lower word of high:low, shifted right.
inline uint32_t __funnelshift_r(uint32_t low, uint32_t high, uint32_t shift) {
    return (uint32_t)(((uint64_t)high << 32 | low) >> (shift & 31));
}

inline float __uint_as_float(uint32_t bits) {
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

inline uint32_t __float_as_uint(float f) {
    uint32_t bits;
    memcpy(&bits, &f, 4);
    return bits;
}

// Rounds to nearest, ties to even; the device makes 0 of a NaN and the nearest integer of what is too large, which no
// kernel relies on.
inline int __float2int_rn(float x) {
    if (!(fabsf(x) < 2147483648.0f)) air_fail("a float that is no integer is converted to one");
    return (int)rintf(x);
}

// Not by the compiler's own type, which costs a call: products of half floats convert millions.
inline float half_to_float(uint16_t h) {
    const uint32_t magnitude = (h & 0x7fffu) << 13, sign = (h & 0x8000u) << 16;
    const bool finite = (h & 0x7c00) != 0x7c00;
    const float f = finite ? __uint_as_float(magnitude) * 0x1p112f : __uint_as_float(0x7f800000u | magnitude);
    return __uint_as_float(__float_as_uint(f) | sign);
}

inline uint16_t float_to_half(float x) {
    const _Float16 f = (_Float16)x;
    uint16_t h;
    memcpy(&h, &f, 2);
    return h;
}

#include "matrix_host.h"
