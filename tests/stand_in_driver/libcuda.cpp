// A driver for a GPU that is this process, for tests: pycuda and NVIDIA's bindings call it as they
// would call libcuda.so, and kernels run in the emulator (what `nvcc.py` beside this file builds).
//
//   g++ -std=c++17 -shared -fPIC -Wl,-soname,libcuda.so.1 libcuda.cpp -o libcuda.so.1
//
// It is stricter than a GPU. What is put on a stream happens when somebody waits for it, and no
// sooner; copies on a stream need page-locked memory; memory begins as nans; and while a stream is
// captured, what a real driver may refuse then is refused.
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <dlfcn.h>
#include <elf.h>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <unistd.h>
#include <vector>

namespace {

enum Status {
  SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_IMAGE = 200, INVALID_CONTEXT = 201,
  INVALID_HANDLE = 400, NOT_FOUND = 500, LAUNCH_FAILED = 719, NOT_SUPPORTED = 801,
  NOT_WHILE_CAPTURING = 900,
};
constexpr size_t PLAIN_SHARED_BYTES = 48 << 10, MOST_SHARED_BYTES = 227 << 10;
constexpr size_t ROOM = size_t(8) << 30;

using Work = std::function<int()>;
struct Stream {
  std::deque<Work> pending;
  std::vector<Work>* captured = nullptr;
};
struct Graph {
  std::vector<Work> work;
};
struct Event {
  bool happened = false;
  std::chrono::steady_clock::time_point time;
};
typedef bool (*Start)(const char* name, unsigned grid, unsigned block, size_t shared_bytes,
                      const char* arguments, size_t size, size_t (*bytes_at)(const void*));
struct Module {
  void* library;
  Start start;
  bool (*has)(const char* name);
  const char* (*complaint)();
};
struct Function {
  Module* module;
  std::string name;
  size_t most_shared = PLAIN_SHARED_BYTES;
};

std::map<char*, size_t> device_memory, locked_memory;
std::vector<Stream*> streams;
size_t used = 0;
int contexts = 0;  // pushed
int primary;       // its address is the primary context's handle
std::string last_failure = "no failure";

template <class T, class V> int give(T* place, V value) {
  *place = value;
  return SUCCESS;
}
int refuse(int status, const char* why) {
  last_failure = why;
  if (getenv("STAND_IN_DRIVER_TRACE")) fprintf(stderr, "libcuda: %s\n", why);
  return status;
}

// Bytes from an address to the end of the allocation that holds it; 0 where none does.
size_t bytes_in(const std::map<char*, size_t>& table, const void* address) {
  auto place = table.upper_bound(static_cast<char*>(const_cast<void*>(address)));
  if (place == table.begin()) return 0;
  --place;
  const size_t offset = static_cast<const char*>(address) - place->first;
  return offset < place->second ? place->second - offset : 0;
}
size_t bytes_at(const void* address) { return bytes_in(device_memory, address); }
bool on_device(uint64_t address, size_t bytes) {
  return bytes_at(reinterpret_cast<void*>(address)) >= bytes;
}

int drain(Stream* stream) {
  while (!stream->pending.empty()) {
    Work work = std::move(stream->pending.front());
    stream->pending.pop_front();
    if (const int status = work()) return status;
  }
  return SUCCESS;
}
int drain_all() {
  for (Stream* stream : streams)
    if (const int status = drain(stream)) return status;
  return SUCCESS;
}
bool any_captured() {
  for (Stream* stream : streams)
    if (stream->captured) return true;
  return false;
}
// What happens at once, after all that was asked for before.
int now(const char* what, Work work) {
  if (!contexts) return refuse(INVALID_CONTEXT, "no context is current");
  if (any_captured()) return refuse(NOT_WHILE_CAPTURING, what);
  if (const int status = drain_all()) return status;
  return work();
}
int put(Stream* stream, Work work) {
  if (!contexts) return refuse(INVALID_CONTEXT, "no context is current");
  if (!stream) return now("the default stream", work);
  if (stream->captured)
    stream->captured->push_back(std::move(work));
  else
    stream->pending.push_back(std::move(work));
  return SUCCESS;
}

size_t image_bytes(const char* image) {  // a shared library ends with its table of sections
  auto header = reinterpret_cast<const Elf64_Ehdr*>(image);
  return header->e_shoff + size_t(header->e_shentsize) * header->e_shnum;
}

int load(Module** made, const char* image) {
  if (memcmp(image, ELFMAG, SELFMAG)) return refuse(INVALID_IMAGE, "no machine code");
  char path[] = "/tmp/stand-in-module-XXXXXX";
  const int file = mkstemp(path);
  const size_t size = image_bytes(image);
  const bool written = file >= 0 && write(file, image, size) == ssize_t(size);
  if (file >= 0) close(file);
  void* library = written ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : nullptr;
  unlink(path);
  if (!library) return refuse(INVALID_IMAGE, "machine code that cannot be loaded");
  *made = new Module{library, Start(dlsym(library, "stand_in_start")),
                     (bool (*)(const char*))dlsym(library, "stand_in_has"),
                     (const char* (*)())dlsym(library, "graphc_complaint")};
  return (*made)->start ? SUCCESS : refuse(INVALID_IMAGE, "not built by the stand-in nvcc");
}

}  // namespace

extern "C" {

// -- devices and contexts --

int cuInit(unsigned) { return SUCCESS; }
int cuDriverGetVersion(int* version) { return give(version, 13000); }
int cuDeviceGetCount(int* count) { return give(count, 1); }
int cuDeviceGet(int* device, int number) {
  return number ? int(INVALID_VALUE) : give(device, 0);
}
int cuDeviceGetName(char* name, int size, int) {
  snprintf(name, size, "this process");
  return SUCCESS;
}
int cuDeviceTotalMem_v2(size_t* bytes, int) { return give(bytes, ROOM); }
int cuDeviceComputeCapability(int* major, int* minor, int) {
  *major = 9;
  *minor = 0;
  return SUCCESS;
}
int cuDeviceGetAttribute(int* value, int attribute, int) {
  switch (attribute) {
    case 13: *value = 1980000; break;  // kHz
    case 16: *value = 132; break;      // multiprocessors
    case 75: *value = 9; break;        // compute capability
    case 76: *value = 0; break;
    default: *value = 1024;
  }
  return SUCCESS;
}
int cuDevicePrimaryCtxRetain(void** context, int) { return give(context, &primary); }
int cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
int cuCtxPushCurrent_v2(void*) {
  ++contexts;
  return SUCCESS;
}
int cuCtxPopCurrent_v2(void** context) {
  if (!contexts) return INVALID_CONTEXT;
  if (context) *context = &primary;
  --contexts;
  return SUCCESS;
}
int cuCtxGetCurrent(void** context) { return give(context, contexts ? &primary : nullptr); }
int cuCtxSetCurrent(void* context) { return give(&contexts, context ? 1 : 0); }
int cuCtxGetDevice(int* device) { return contexts ? give(device, 0) : int(INVALID_CONTEXT); }
int cuCtxGetApiVersion(void*, unsigned* version) { return give(version, 13000); }
int cuCtxDetach(void*) { return SUCCESS; }
int cuCtxSynchronize() {
  return now("waiting while a stream is captured", [] { return int(SUCCESS); });
}
int cuGetErrorString(int status, const char** text) {
  static std::string said;
  said = status == OUT_OF_MEMORY ? "out of memory" : last_failure;
  return give(text, said.c_str());
}
int cuGetErrorName(int, const char** text) { return give(text, "STAND_IN"); }

// -- memory --

int cuMemAlloc_v2(uint64_t* place, size_t bytes) {
  if (!bytes) return refuse(INVALID_VALUE, "an allocation of no bytes");
  if (any_captured()) return refuse(NOT_WHILE_CAPTURING, "an allocation");
  if (used + bytes > ROOM) return refuse(OUT_OF_MEMORY, "out of memory");
  char* made = static_cast<char*>(aligned_alloc(256, (bytes + 255) / 256 * 256));
  if (!made) return refuse(OUT_OF_MEMORY, "out of memory");
  memset(made, 0xff, bytes);
  used += device_memory[made] = bytes;
  return give(place, reinterpret_cast<uint64_t>(made));
}
int cuMemFree_v2(uint64_t place) {
  char* memory = reinterpret_cast<char*>(place);
  auto found = device_memory.find(memory);
  if (found == device_memory.end()) return refuse(INVALID_VALUE, "freed memory is freed");
  if (const int status = drain_all()) return status;
  used -= found->second;
  device_memory.erase(found);
  free(memory);
  return SUCCESS;
}
int cuMemGetInfo_v2(size_t* left, size_t* all) {
  *left = ROOM - used;
  return give(all, ROOM);
}
int cuMemHostAlloc(void** place, size_t bytes, unsigned) {
  if (!bytes) return refuse(INVALID_VALUE, "page-locked memory of no bytes");
  if (any_captured()) return refuse(NOT_WHILE_CAPTURING, "page-locked memory");
  *place = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
  memset(*place, 0x55, bytes);
  return give(&locked_memory[static_cast<char*>(*place)], bytes);
}
int cuMemHostAlloc_v2(void** place, size_t bytes, unsigned flags) {
  return cuMemHostAlloc(place, bytes, flags);
}
int cuMemFreeHost(void* place) {
  if (!locked_memory.erase(static_cast<char*>(place))) return INVALID_VALUE;
  free(place);
  return SUCCESS;
}

int cuMemcpyHtoD_v2(uint64_t to, const void* from, size_t bytes) {
  if (!on_device(to, bytes)) return refuse(INVALID_VALUE, "a copy to what is not on the GPU");
  return now("a copy", [=] {
    memcpy((void*)to, from, bytes);
    return int(SUCCESS);
  });
}
int cuMemcpyDtoH_v2(void* to, uint64_t from, size_t bytes) {
  if (!on_device(from, bytes)) return refuse(INVALID_VALUE, "a copy of what is not on the GPU");
  return now("a copy", [=] {
    memcpy(to, (void*)from, bytes);
    return int(SUCCESS);
  });
}
int cuMemcpyDtoD_v2(uint64_t to, uint64_t from, size_t bytes) {
  if (!on_device(to, bytes) || !on_device(from, bytes))
    return refuse(INVALID_VALUE, "a copy of what is not on the GPU");
  return now("a copy", [=] {
    memcpy((void*)to, (void*)from, bytes);
    return int(SUCCESS);
  });
}
int cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t bytes, Stream* stream) {
  if (!on_device(to, bytes)) return refuse(INVALID_VALUE, "a copy to what is not on the GPU");
  if (bytes_in(locked_memory, from) < bytes)
    return refuse(INVALID_VALUE, "a copy on a stream of memory that is not page-locked");
  return put(stream, [=] {
    memcpy((void*)to, from, bytes);
    return int(SUCCESS);
  });
}
int cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t bytes, Stream* stream) {
  if (!on_device(from, bytes)) return refuse(INVALID_VALUE, "a copy of what is not on the GPU");
  if (bytes_in(locked_memory, to) < bytes)
    return refuse(INVALID_VALUE, "a copy on a stream to memory that is not page-locked");
  return put(stream, [=] {
    memcpy(to, (void*)from, bytes);
    return int(SUCCESS);
  });
}
int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, Stream* stream) {
  if (!on_device(to, bytes) || !on_device(from, bytes))
    return refuse(INVALID_VALUE, "a copy of what is not on the GPU");
  return put(stream, [=] {
    memcpy((void*)to, (void*)from, bytes);
    return int(SUCCESS);
  });
}
int cuMemsetD8_v2(uint64_t to, unsigned char value, size_t bytes) {
  if (!on_device(to, bytes)) return refuse(INVALID_VALUE, "a fill of what is not on the GPU");
  return now("a fill", [=] {
    memset((void*)to, value, bytes);
    return int(SUCCESS);
  });
}
int cuMemsetD8Async(uint64_t to, unsigned char value, size_t bytes, Stream* stream) {
  if (!on_device(to, bytes)) return refuse(INVALID_VALUE, "a fill of what is not on the GPU");
  return put(stream, [=] {
    memset((void*)to, value, bytes);
    return int(SUCCESS);
  });
}

// -- code --

int cuModuleLoadDataEx(Module** made, const void* image, unsigned, void*, void*) {
  return load(made, static_cast<const char*>(image));
}
int cuModuleLoadData(Module** made, const void* image) {
  return load(made, static_cast<const char*>(image));
}
int cuModuleUnload(Module*) { return SUCCESS; }
int cuModuleGetFunction(Function** made, Module* module, const char* name) {
  if (!module->has(name)) return refuse(NOT_FOUND, "a kernel of no such name");
  return give(made, new Function{module, name});
}
int cuFuncSetBlockShape(Function*, int, int, int) { return SUCCESS; }
int cuFuncGetAttribute(int* value, int, Function*) { return give(value, 0); }
int cuFuncSetAttribute(Function* function, int attribute, int value) {
  if (attribute != 8 || size_t(value) > MOST_SHARED_BYTES)
    return refuse(INVALID_VALUE, "an attribute of a kernel");
  return give(&function->most_shared, value);
}
int cuLaunchKernel(Function* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx,
                   unsigned by, unsigned bz, unsigned shared, Stream* stream, void** parameters,
                   void** extra) {
  if (gy != 1 || gz != 1 || by != 1 || bz != 1 || !gx || gx > 0x7fffffff || !bx || bx > 1024)
    return refuse(INVALID_VALUE, "a launch of too many threads");
  if (shared > function->most_shared) return refuse(INVALID_VALUE, "too much shared memory");
  if (parameters || !extra) return refuse(INVALID_VALUE, "arguments that are no buffer");
  const char* place = nullptr;
  size_t size = 0;
  for (; *extra; extra += 2) {
    if (*extra == (void*)1) place = static_cast<char*>(extra[1]);
    if (*extra == (void*)2) size = *static_cast<size_t*>(extra[1]);
  }
  const std::string packed(place, size);
  return put(stream, [=] {
    Module* module = function->module;
    const bool done = module->start(function->name.c_str(), gx, bx, shared, packed.data(),
                                    packed.size(), bytes_at);
    return done ? int(SUCCESS) : refuse(LAUNCH_FAILED, module->complaint());
  });
}

// -- streams, events, graphs --

int cuStreamCreate(Stream** made, unsigned) {
  streams.push_back(*made = new Stream);
  return SUCCESS;
}
int cuStreamDestroy_v2(Stream* stream) { return drain(stream); }
int cuStreamSynchronize(Stream* stream) {
  return now("waiting while a stream is captured", [=] { return stream ? drain(stream) : 0; });
}
int cuStreamQuery(Stream* stream) { return stream->pending.empty() ? SUCCESS : 600; }
int cuStreamBeginCapture_v2(Stream* stream, int) {
  if (!stream || stream->captured) return refuse(INVALID_VALUE, "a second capture");
  return give(&stream->captured, new std::vector<Work>);
}
int cuStreamEndCapture(Stream* stream, Graph** made) {
  if (!stream->captured) return refuse(INVALID_VALUE, "no capture");
  *made = new Graph{*stream->captured};
  delete stream->captured;
  return give(&stream->captured, nullptr);
}
int cuGraphInstantiateWithFlags(Graph** made, Graph* graph, unsigned long long) {
  return give(made, new Graph(*graph));
}
int cuGraphDestroy(Graph* graph) {
  delete graph;
  return SUCCESS;
}
int cuGraphExecDestroy(Graph* graph) { return cuGraphDestroy(graph); }
int cuGraphLaunch(Graph* graph, Stream* stream) {
  for (const Work& work : graph->work)
    if (const int status = put(stream, work)) return status;
  return SUCCESS;
}
int cuEventCreate(Event** made, unsigned) { return give(made, new Event); }
int cuEventDestroy_v2(Event* event) {
  delete event;
  return SUCCESS;
}
int cuEventRecordWithFlags(Event* event, Stream* stream, unsigned flags) {
  if (stream && stream->captured && !flags)
    return put(stream, [] { return int(SUCCESS); });  // only an order inside of the graph
  return put(stream, [=] {
    event->happened = true;
    return give(&event->time, std::chrono::steady_clock::now());
  });
}
int cuEventRecord(Event* event, Stream* stream) { return cuEventRecordWithFlags(event, stream, 0); }
int cuEventSynchronize(Event*) { return cuCtxSynchronize(); }
int cuEventQuery(Event* event) { return event->happened ? SUCCESS : 600; }
int cuEventElapsedTime_v2(float* milliseconds, Event* begin, Event* end) {
  if (!begin->happened || !end->happened) return refuse(INVALID_HANDLE, "an event not recorded");
  *milliseconds = std::chrono::duration<float, std::milli>(end->time - begin->time).count();
  return SUCCESS;
}
int cuEventElapsedTime(float* milliseconds, Event* begin, Event* end) {
  return cuEventElapsedTime_v2(milliseconds, begin, end);
}

// How NVIDIA's bindings find a function: by its name without the version.
int cuGetProcAddress_v2(const char* name, void** function, int, uint64_t, int* found) {
  for (const char* version : {"_v2", ""})
    if ((*function = dlsym(RTLD_DEFAULT, (std::string(name) + version).c_str()))) break;
  if (found) *found = *function ? 0 : 1;
  return *function ? SUCCESS : NOT_FOUND;
}

// -- what pycuda asks the linker for, and graphc never calls --

#define NONE(name) \
  int name() { return refuse(NOT_SUPPORTED, #name " is no part of the stand-in"); }
NONE(cuArray3DCreate_v2) NONE(cuArray3DGetDescriptor_v2) NONE(cuArrayCreate_v2)
NONE(cuArrayDestroy) NONE(cuArrayGetDescriptor_v2) NONE(cuCtxAttach) NONE(cuCtxCreate_v4)
NONE(cuCtxDisablePeerAccess) NONE(cuCtxEnablePeerAccess) NONE(cuCtxGetCacheConfig)
NONE(cuCtxGetLimit) NONE(cuCtxGetSharedMemConfig) NONE(cuCtxSetCacheConfig) NONE(cuCtxSetLimit)
NONE(cuCtxSetSharedMemConfig) NONE(cuDeviceCanAccessPeer) NONE(cuDeviceGetByPCIBusId)
NONE(cuDeviceGetPCIBusId)  NONE(cuFuncSetCacheConfig)
NONE(cuFuncSetSharedSize) NONE(cuIpcCloseMemHandle) NONE(cuIpcGetEventHandle)
NONE(cuIpcGetMemHandle) NONE(cuIpcOpenEventHandle) NONE(cuIpcOpenMemHandle_v2) NONE(cuLaunch)
NONE(cuLaunchGrid) NONE(cuLaunchGridAsync) NONE(cuLinkAddData_v2) NONE(cuLinkAddFile_v2)
NONE(cuLinkComplete) NONE(cuLinkCreate_v2) NONE(cuLinkDestroy) NONE(cuMemAllocManaged)
NONE(cuMemAllocPitch_v2) NONE(cuMemGetAddressRange_v2) NONE(cuMemHostGetDevicePointer_v2)
NONE(cuMemHostGetFlags) NONE(cuMemHostRegister_v2) NONE(cuMemHostUnregister)
NONE(cuMemcpy2DAsync_v2) NONE(cuMemcpy2DUnaligned_v2) NONE(cuMemcpy2D_v2)
NONE(cuMemcpy3DAsync_v2) NONE(cuMemcpy3DPeer) NONE(cuMemcpy3DPeerAsync) NONE(cuMemcpy3D_v2)
NONE(cuMemcpyAtoA_v2) NONE(cuMemcpyAtoD_v2) NONE(cuMemcpyAtoH_v2) NONE(cuMemcpyDtoA_v2)
NONE(cuMemcpyHtoA_v2) NONE(cuMemcpyPeer) NONE(cuMemcpyPeerAsync) NONE(cuMemsetD16Async)
NONE(cuMemsetD16_v2) NONE(cuMemsetD2D16Async) NONE(cuMemsetD2D16_v2) NONE(cuMemsetD2D32Async)
NONE(cuMemsetD2D32_v2) NONE(cuMemsetD2D8Async) NONE(cuMemsetD2D8_v2) NONE(cuMemsetD32Async)
NONE(cuMemsetD32_v2) NONE(cuModuleGetGlobal_v2) NONE(cuModuleGetSurfRef) NONE(cuModuleGetTexRef)
NONE(cuModuleLoad) NONE(cuParamSetSize) NONE(cuParamSetTexRef) NONE(cuParamSetf)
NONE(cuParamSeti) NONE(cuParamSetv) NONE(cuProfilerInitialize) NONE(cuProfilerStart)
NONE(cuProfilerStop) NONE(cuStreamAttachMemAsync) NONE(cuStreamWaitEvent)
NONE(cuSurfRefGetArray) NONE(cuSurfRefSetArray) NONE(cuTexRefCreate) NONE(cuTexRefDestroy)
NONE(cuTexRefGetAddressMode) NONE(cuTexRefGetAddress_v2) NONE(cuTexRefGetArray)
NONE(cuTexRefGetFilterMode) NONE(cuTexRefGetFlags) NONE(cuTexRefGetFormat)
NONE(cuTexRefSetAddress2D_v3) NONE(cuTexRefSetAddressMode) NONE(cuTexRefSetAddress_v2)
NONE(cuTexRefSetArray) NONE(cuTexRefSetFilterMode) NONE(cuTexRefSetFlags)
NONE(cuTexRefSetFormat)

}
