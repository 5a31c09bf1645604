// Runs the CUDA C++ that graphc writes on a CPU, for tests:  g++ -include cuda_on_cpu.h net.cu
//
// Blocks run one after another on one thread of the system. The threads of a block are fibers; one
// runs until it comes to a barrier or an exchange between lanes, then the next one does. The order
// is that of the thread numbers, or random: then some warps run as far ahead of others as they can.
//
// What would go wrong on a GPU only sometimes is an error here: an index outside of a buffer, a
// barrier that some threads never come to, lanes that meet at different lines. Shared memory begins
// as nans, so that a value that nobody wrote is seen; a missing barrier shows under a random order.
#pragma once
#define GRAPHC_ON_CPU 1

#include <cmath>
#include <csetjmp>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <type_traits>
#include <ucontext.h>
#include <utility>
#include <vector>

#ifdef GRAPHC_COUNT_TRAFFIC
#include "cuda_traffic.h"
#endif

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};

inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;

namespace emulator {

enum State : char { READY, AT_BARRIER, AT_EXCHANGE, DONE };
constexpr unsigned LANES = 32, MOST_THREADS = 1024, WARPS = MOST_THREADS / LANES;
constexpr size_t STACK_BYTES = 128 << 10, MARGIN = 64;

struct Copy {  // to shared memory, on its way
  void* to;
  const void* from;  // null: zeros
  unsigned bytes;
};

struct Fiber {
  std::unique_ptr<char[]> stack;
  jmp_buf context;
  bool begun = false;
  State state = READY;
  std::vector<std::vector<Copy>> copies{1};  // in groups; the last one is still open
};

struct Warp {
  unsigned arrived;
  int line;
  unsigned turn[LANES];        // how many exchanges a lane has taken part in
  uint64_t words[2][LANES];    // what lanes publish, by the parity of the turn
  unsigned fragments[2][LANES][6];  // of the matrices that they multiply
};

struct Machine {
  Fiber fibers[MOST_THREADS];
  Warp warps[WARPS];
  std::vector<unsigned> order;
  std::vector<unsigned> warp_order;  // in a random order of threads: whose threads go first
  std::vector<unsigned char> shared;
  jmp_buf scheduler;
  unsigned threads = 0, current = 0, done = 0, arrived = 0;
  size_t shared_bytes = 0;
  int line = 0;                // of the barrier that threads wait at
  uint64_t seed = 0;           // 0: in the order of thread numbers
  void (*body)(void*) = nullptr;
  void* argument = nullptr;
  const char* kernel = "";
  bool failed = false;
  char message[600] = "";
};
inline Machine machine;

inline void note(const char* format, va_list rest) {
  char what[400];
  vsnprintf(what, sizeof what, format, rest);
  snprintf(machine.message, sizeof machine.message, "kernel %s, block %u, thread %u: %s",
           machine.kernel, blockIdx.x, machine.current, what);
  machine.failed = true;
}

// From inside a kernel: give up the whole launch.
[[noreturn]] __attribute__((noinline)) inline void fail(const char* format, ...) {
  va_list rest;
  va_start(rest, format);
  note(format, rest);
  va_end(rest);
  _longjmp(machine.scheduler, 1);
}

__attribute__((noinline)) inline void note_failure(const char* format, ...) {
  va_list rest;
  va_start(rest, format);
  note(format, rest);
  va_end(rest);
}

// ---- fibers ----

__attribute__((noipa)) inline void switch_out() {
  if (!_setjmp(machine.fibers[machine.current].context)) _longjmp(machine.scheduler, 1);
}

inline void fiber_main() {
  for (;;) {
    machine.body(machine.argument);
    machine.fibers[machine.current].state = DONE;
    machine.done++;
    switch_out();
  }
}

__attribute__((noipa)) inline void resume(unsigned thread) {
  Fiber& fiber = machine.fibers[thread];
  machine.current = thread;
  threadIdx = {thread, 0, 0};
  if (_setjmp(machine.scheduler)) return;
  if (fiber.begun) _longjmp(fiber.context, 1);
  if (!fiber.stack) fiber.stack.reset(new char[STACK_BYTES]);
  fiber.begun = true;
  static ucontext_t start;
  getcontext(&start);
  start.uc_stack.ss_sp = fiber.stack.get();
  start.uc_stack.ss_size = STACK_BYTES;
  start.uc_link = nullptr;
  makecontext(&start, fiber_main, 0);
  setcontext(&start);
}

inline unsigned random_below(unsigned limit) {
  uint64_t& s = machine.seed;  // xorshift64*
  s ^= s >> 12, s ^= s << 25, s ^= s >> 27;
  return unsigned((s * 2685821657736338717ull >> 33) % limit);
}

inline void shuffle(std::vector<unsigned>& order) {
  for (size_t i = order.size(); i > 1; i--) std::swap(order[i - 1], order[random_below(unsigned(i))]);
}

// Run every thread of machine.order that is ready, in warp `only` if that is given. Whether any was.
inline bool run_ready(int only = -1) {
  bool progress = false;
  for (unsigned t : machine.order) {
    if (machine.fibers[t].state != READY || (only >= 0 && t / LANES != unsigned(only))) continue;
    progress = true;
    resume(t);
    if (machine.failed) break;
  }
  return progress;
}

// The first warp with threads that are ready goes on; now and then another one comes first.
inline bool run_some_warp() {
  shuffle(machine.order);
  if (random_below(16) == 0) shuffle(machine.warp_order);
  for (unsigned warp : machine.warp_order)
    if (run_ready(int(warp))) return true;
  return false;
}

inline void run_block() {
  for (unsigned t = 0; t < machine.threads; t++) {
    machine.fibers[t].state = READY;
    machine.fibers[t].copies.assign(1, {});
  }
  memset(machine.warps, 0, sizeof machine.warps);
  memset(machine.shared.data(), 0xff, machine.shared.size());
  machine.done = machine.arrived = 0;
  machine.line = 0;
  if (machine.seed) shuffle(machine.warp_order);
  while (machine.done < machine.threads) {
    const bool progress = machine.seed ? run_some_warp() : run_ready();
    if (machine.failed) return;
    if (progress) continue;
    unsigned stuck = 0;
    while (machine.fibers[stuck].state == DONE) stuck++;
    machine.current = stuck;
    const bool barrier = machine.fibers[stuck].state == AT_BARRIER;
    note_failure("waits at the %s of line %d, where not all threads come (%u of %u have ended)",
                 barrier ? "barrier" : "exchange",
                 barrier ? machine.line : machine.warps[stuck / LANES].line, machine.done,
                 machine.threads);
    return;
  }
  for (size_t i = machine.shared_bytes; i < machine.shared.size(); i++)
    if (machine.shared[i] != 0xff) {
      note_failure("the block has written past its shared memory");
      return;
    }
#ifdef GRAPHC_COUNT_TRAFFIC
  end_of_counted_block(machine.kernel);
#endif
}

// ---- meeting ----

inline void barrier(int line) {
  if (machine.arrived && machine.line != line)
    fail("comes to the barrier of line %d while others wait at that of line %d", line, machine.line);
  machine.line = line;
  if (++machine.arrived == machine.threads) {
    for (unsigned t = 0; t < machine.threads; t++)
      if (machine.fibers[t].state == AT_BARRIER) machine.fibers[t].state = READY;
    machine.arrived = 0;
    if (!machine.seed) return;
    machine.fibers[machine.current].state = READY;  // whoever came last need not go first
    switch_out();
    return;
  }
  machine.fibers[machine.current].state = AT_BARRIER;
  switch_out();
}

inline void meet_lanes(Warp& warp, int line) {
  if (warp.arrived && warp.line != line)
    fail("exchanges at line %d while other lanes of its warp do at line %d", line, warp.line);
  warp.line = line;
  if (++warp.arrived == LANES) {
    unsigned first = machine.current / LANES * LANES;
    for (unsigned t = first; t < first + LANES; t++)
      if (machine.fibers[t].state == AT_EXCHANGE) machine.fibers[t].state = READY;
    warp.arrived = 0;
    return;
  }
  machine.fibers[machine.current].state = AT_EXCHANGE;
  switch_out();
}

template <class T> T exchange(unsigned mask, T value, unsigned from, int line) {
  static_assert(sizeof(T) <= 8, "lanes exchange up to 8 bytes");
  if (mask != 0xffffffffu) fail("an exchange at line %d has not all lanes in its mask", line);
  const unsigned lane = machine.current % LANES;
  Warp& warp = machine.warps[machine.current / LANES];
  const unsigned side = warp.turn[lane]++ % 2;
  uint64_t word = 0;
  memcpy(&word, &value, sizeof value);
  warp.words[side][lane] = word;
  meet_lanes(warp, line);
  memcpy(&value, &warp.words[side][from % LANES], sizeof value);
  return value;
}

// ---- tensor cores ----

// Ten bits after the point, to the nearest, ties away from 0; nan and inf stay what they are.
inline unsigned to_tf32(float value) {
  unsigned bits;
  memcpy(&bits, &value, sizeof bits);
  return (bits & 0x7f800000) == 0x7f800000 ? bits : (bits + 0x1000) & 0xffffe000;
}

inline float from_tf32(unsigned bits) {
  bits &= 0xffffe000;  // the hardware does not look at the others
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

// All lanes show their fragments; each then adds up the four elements that it keeps.
inline void multiply_16x8x8(float* sum, const unsigned* a, const unsigned* b, int line) {
  const unsigned lane = machine.current % LANES, g = lane / 4, q = lane % 4;
  Warp& warp = machine.warps[machine.current / LANES];
  const unsigned side = warp.turn[lane]++ % 2;
  memcpy(warp.fragments[side][lane], a, 4 * sizeof *a);
  memcpy(warp.fragments[side][lane] + 4, b, 2 * sizeof *b);
  meet_lanes(warp, line);
  const auto& shown = warp.fragments[side];
  for (unsigned e = 0; e < 4; e++) {
    const unsigned row = g + e / 2 * 8, column = q * 2 + e % 2;
    for (unsigned k = 0; k < 8; k++) {
      const unsigned left = shown[row % 8 * 4 + k % 4][row / 8 + k / 4 * 2];
      const unsigned right = shown[column * 4 + k % 4][4 + k / 4];
      sum[e] += from_tf32(left) * from_tf32(right);
    }
  }
}

// ---- memory ----

[[noreturn]] __attribute__((noinline)) inline void outside(const char* name, long long i, long long count) {
  fail("index %lld of %s is outside of its %lld elements", i, name, count);
}

[[noreturn]] __attribute__((noinline)) inline void unaligned(const char* name, long long i, int count) {
  fail("accesses %d elements of %s at once, and element %lld is not aligned to that", count, name, i);
}

#ifdef GRAPHC_COUNT_TRAFFIC
inline void count_at(const void* site, const char* name, const void* place, unsigned bytes) {
  const unsigned char *const at = (const unsigned char*)place, *const shared = machine.shared.data();
  const bool is_shared = at >= shared && at < shared + machine.shared.size();
  count_access(site, machine.current, name, is_shared, is_shared ? at - shared : (uintptr_t)at,
               bytes);
}
// Where it is called from tells the accesses of a kernel apart.
__attribute__((noinline)) inline void count_one(const char* name, const void* place,
                                                unsigned bytes) {
  count_at(__builtin_return_address(0), name, place, bytes);
}
#else
inline void count_at(const void*, const char*, const void*, unsigned) {}
inline void count_one(const char*, const void*, unsigned) {}
#endif

// A pointer that knows how many elements there are.
template <class T> struct Checked {
  T* first;
  long long count;
  const char* name;

  // `COUNT` neighbours, the first of which is element i.
  template <int COUNT> __attribute__((always_inline)) T* checked(long long i) const {
    if ((unsigned long long)i >= (unsigned long long)count) outside(name, i, count);
    if (COUNT > 1 && i + COUNT > count) outside(name, i + COUNT - 1, count);
    if (COUNT > 1 && (uintptr_t)(first + i) % (COUNT * sizeof(T))) unaligned(name, i, COUNT);
    return first + i;
  }
  template <int COUNT = 1> __attribute__((always_inline)) T* at(long long i) const {
    T* const found = checked<COUNT>(i);
    count_one(name, found, COUNT * sizeof(T));
    return found;
  }
  __attribute__((always_inline)) T& operator[](long long i) const { return *at(i); }
};

// Copies happen as late as they may: a missing wait leaves what was there before.
template <int COUNT, class T>
void copy_late(int line, const Checked<T>& to, long long place, const Checked<const T>& from,
               long long at, bool inside) {
  T* const target = to.template checked<COUNT>(place);
  const T* const source = inside ? from.template checked<COUNT>(at) : nullptr;
  // A line stands for the place of the call, which the compiler may double.
  count_at((const void*)(intptr_t)(2 * line), to.name, target, COUNT * sizeof(T));
  count_at((const void*)(intptr_t)(2 * line + 1), from.name, source, COUNT * sizeof(T));
  Fiber& fiber = machine.fibers[machine.current];
  fiber.copies.back().push_back({target, source, COUNT * sizeof(T)});
}

inline void end_of_copies() { machine.fibers[machine.current].copies.emplace_back(); }

inline void wait_for_copies(size_t left) {
  auto& groups = machine.fibers[machine.current].copies;
  while (groups.size() > left + 1) {
    for (const Copy& copy : groups.front())
      copy.from ? memcpy(copy.to, copy.from, copy.bytes) : memset(copy.to, 0, copy.bytes);
    groups.erase(groups.begin());
  }
}

template <class... A, size_t... I>
void apply(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
  kernel(*static_cast<std::remove_reference_t<A>*>(arguments[I])...);
}

template <class... A> struct Call {
  void (*kernel)(A...);
  void** arguments;

  static void run(void* self) {
    auto call = static_cast<Call*>(self);
    apply(call->kernel, call->arguments, std::index_sequence_for<A...>{});
  }
};

template <class... A>
bool launch(void (*kernel)(A...), const char* name, dim3 grid, dim3 block, void** arguments,
            size_t shared_bytes) {
  machine.kernel = name;
  machine.threads = block.x;
  blockIdx = {0, 0, 0};
  machine.current = 0;
  if (block.x == 0 || block.x > MOST_THREADS || block.x % LANES || block.y != 1 || block.z != 1 ||
      grid.x == 0 || grid.y != 1 || grid.z != 1 || shared_bytes > (227u << 10)) {
    note_failure("cannot run %u blocks of %u threads with %zu bytes", grid.x, block.x, shared_bytes);
    return false;
  }
  Call<A...> call{kernel, arguments};
  machine.argument = &call;
  machine.body = Call<A...>::run;
  machine.shared_bytes = shared_bytes;
  machine.shared.assign(shared_bytes + MARGIN, 0xff);
  gridDim = grid, blockDim = block;
  machine.order.resize(block.x);
  for (unsigned t = 0; t < block.x; t++) machine.order[t] = t;
  machine.warp_order.resize(block.x / LANES);
  for (unsigned w = 0; w < block.x / LANES; w++) machine.warp_order[w] = w;
  std::vector<unsigned> blocks(grid.x);
  for (unsigned b = 0; b < grid.x; b++) blocks[b] = b;
  if (machine.seed) shuffle(blocks);
  for (unsigned b : blocks) {
    blockIdx = {b, 0, 0};
    run_block();
    if (machine.failed) break;
  }
  if (machine.failed)
    for (Fiber& fiber : machine.fibers) fiber.begun = false;  // they stand in the middle of it
  return !machine.failed;
}

}  // namespace emulator

// ---- what CUDA has ----

#define __syncthreads() emulator::barrier(__LINE__)
#define __syncwarp() \
  emulator::meet_lanes(emulator::machine.warps[emulator::machine.current / 32], __LINE__)
#define __shfl_xor_sync(mask, value, lanes) \
  emulator::exchange(mask, value, (threadIdx.x % 32) ^ (lanes), __LINE__)

inline unsigned long long atomicCAS(unsigned long long* place, unsigned long long expected,
                                    unsigned long long wanted) {
  const unsigned long long old = *place;
  if (old == expected) *place = wanted;
  return old;
}
inline float __int_as_float(int bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}
inline double __longlong_as_double(long long bits) {
  double value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

template <class T> using Buffer = emulator::Checked<T>;
template <class T> using AloneBuffer = emulator::Checked<T>;
template <class T> using Tile = emulator::Checked<T>;

#define to_tf32(value) emulator::to_tf32(value)
#define multiply_16x8x8(sum, a, b) emulator::multiply_16x8x8(sum, a, b, __LINE__)
struct CopyAt {
  int line;
  template <int COUNT, class T, class B>
  void copy(const Tile<T>& to, long long place, const B& from, long long at, bool inside) {
    emulator::copy_late<COUNT>(line, to, place, Buffer<const T>{from.first, from.count, from.name},
                               at, inside);
  }
};
#define copy_async CopyAt{__LINE__}.copy
inline void end_of_copies() { emulator::end_of_copies(); }
template <int LEFT> void wait_for_copies() { emulator::wait_for_copies(LEFT); }

template <class T> Tile<T> tile(int byte, int count) {
  if (byte < 0 || byte + count * sizeof(T) > emulator::machine.shared_bytes)
    emulator::fail("takes %d elements at byte %d of %zu bytes of shared memory", count, byte,
                   emulator::machine.shared_bytes);
  return {reinterpret_cast<T*>(emulator::machine.shared.data() + byte), count, "shared memory"};
}

template <class T> Buffer<T> placed(void* slot, long long byte, long long count, const char* name) {
  return {reinterpret_cast<T*>(static_cast<char*>(slot) + byte), count, name};
}

template <class K> void graphc_allow_shared(K, int) {}

typedef int cudaError_t;
typedef void* cudaStream_t;
#define cudaLaunchKernel(kernel, grid, block, arguments, bytes, stream) \
  (emulator::launch(kernel, #kernel, grid, block, arguments, bytes) ? 0 : 1)

// ---- what a main program asks of the runtime: memory begins as nans ----

enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost };
inline cudaError_t cudaMalloc(void** place, size_t bytes) {
  *place = aligned_alloc(256, (bytes + 255) / 256 * 256);
  if (*place) memset(*place, 0xff, bytes);
  return *place ? 0 : 2;
}
inline cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
  memcpy(to, from, bytes);
  return 0;
}
inline cudaError_t cudaMemset(void* place, int value, size_t bytes) {
  memset(place, value, bytes);
  return 0;
}
inline cudaError_t cudaDeviceSynchronize() { return 0; }
inline const char* cudaGetErrorString(cudaError_t error) {
  return error == 1 ? emulator::machine.message : "no memory";
}
