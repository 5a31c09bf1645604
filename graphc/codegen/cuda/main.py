"""A program around a CUDA text: reads .npy files, runs the net once, writes .npy files.

    net FOLDER [forward]

It reads FOLDER/NAME.npy for every array that the net takes and writes those that it makes; a `/` in
a name is a `.` in the file's. Arrays of states and of given gradients may be missing: they are 0.
The files of a MatConvNet net are in Fortran order.
nvcc builds it with only the driver needed to run, and g++ with `cuda_on_cpu.h` for the CPU.
"""

from __future__ import annotations

from graphc.codegen.c_api import visible_text
from graphc.codegen.cuda.program import quoted
from graphc.runtime.bundle import SlotEntry
from graphc.runtime.launch import CudaBundle

_DESCRIPTIONS = {
    "float32": "<f4",
    "float64": "<f8",
    "int32": "<i4",
    "int64": "<i8",
    "uint8": "|u1",
}
_ZERO_IF_MISSING = ("state", "gradient")
_MADE = ("output", "state")

_INCLUDES = """\
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>
"""

_MAIN = r"""
struct Array {
  const char* file;
  const char* header;  // of its .npy file, without spaces
  long long bytes;
  bool read, may_be_missing, written;
};

@TABLES@

@VISIBLE@static void stop(const std::string& what) {
  fputs("error: ", stderr);
  print_visible(stderr, what.c_str());
  fputc('\n', stderr);
  exit(1);
}
static void must(cudaError_t failed, const char* what) {
  if (failed) stop(std::string(what) + ": " + cudaGetErrorString(failed));
}

static std::string without_spaces(const std::string& text) {
  std::string kept;
  for (char c : text)
    if (c != ' ' && c != '\n') kept += c;
  return kept;
}

// The elements of a .npy file of the right type and shape.
static std::vector<char> read_array(const std::string& path, const Array& array) {
  std::vector<char> elements(size_t(array.bytes), 0);
  FILE* file = fopen(path.c_str(), "rb");
  if (!file) {
    if (array.may_be_missing) return elements;
    stop("cannot read " + path);
  }
  unsigned char start[10];
  if (fread(start, 1, 10, file) != 10 || memcmp(start, "\x93NUMPY\x01", 7) != 0)
    stop(path + " is no .npy file of version 1");
  std::string header(start[8] + 256u * start[9], ' ');
  if (fread(&header[0], 1, header.size(), file) != header.size()) stop(path + " is cut short");
  if (without_spaces(header) != array.header)
    stop(path + " holds " + without_spaces(header) + ", needed is " + array.header);
  if (fread(elements.data(), 1, elements.size(), file) != elements.size())
    stop(path + " is cut short");
  fclose(file);
  return elements;
}

static void write_array(
    const std::string& path, const Array& array, const std::vector<char>& data) {
  std::string header = array.header;
  while ((10 + header.size() + 1) % 64) header += ' ';
  header += '\n';
  FILE* file = fopen(path.c_str(), "wb");
  if (!file) stop("cannot write " + path);
  fwrite("\x93NUMPY\x01\x00", 1, 8, file);
  fputc(int(header.size() % 256), file);
  fputc(int(header.size() / 256), file);
  fwrite(header.data(), 1, header.size(), file);
  fwrite(data.data(), 1, data.size(), file);
  if (fclose(file)) stop("cannot write " + path);
}

int main(int count, char** words) {
  const bool forward = count == 3 && !strcmp(words[2], "forward");
  if (count != 2 && !forward) {
    fprintf(stderr, "usage: %s FOLDER [forward]\n", words[0]);
    return 2;
  }
  const std::string folder = std::string(words[1]) + "/";
  const int slots = int(sizeof arrays / sizeof *arrays);
  std::vector<void*> memory(slots);
  for (int slot = 0; slot < slots; ++slot) {
    const Array& array = arrays[slot];
    const size_t bytes = array.bytes ? size_t(array.bytes) : 1;
    must(cudaMalloc(&memory[slot], bytes), "cannot allocate memory on the GPU");
    if (array.read) {
      const std::vector<char> data = read_array(folder + array.file, array);
      must(cudaMemcpy(memory[slot], data.data(), data.size(), cudaMemcpyHostToDevice), "copying");
    } else {
      must(cudaMemset(memory[slot], 0, bytes), "clearing");
    }
  }
  long long found[2] = {0, 0};
  void* error = nullptr;
  must(cudaMalloc(&error, sizeof found), "cannot allocate memory on the GPU");
  must(cudaMemcpy(error, found, sizeof found, cudaMemcpyHostToDevice), "copying");
  const int last = forward ? graphc_forward_steps : graphc_steps;
  must((cudaError_t)graphc_run(memory.data(), 0, last, (long long*)error, 0), "launching");
  must(cudaDeviceSynchronize(), "running");
  must(cudaMemcpy(found, error, sizeof found, cudaMemcpyDeviceToHost), "copying");
  if (found[0]) stop(std::string(checks[found[0] - 1]) + "; found " + std::to_string(found[1]));
  for (int slot = 0; slot < slots; ++slot) {
    if (!arrays[slot].written) continue;
    std::vector<char> data(size_t(arrays[slot].bytes));
    must(cudaMemcpy(data.data(), memory[slot], data.size(), cudaMemcpyDeviceToHost), "copying");
    write_array(folder + arrays[slot].file, arrays[slot], data);
  }
  return 0;
}
"""


def main_text(bundle: CudaBundle) -> str:
    """The whole source of the program."""
    rows = [f'  {{"", "", {bundle.arena_bytes}, false, false, false}},']
    rows += [_row(slot, bundle.column_major) for slot in bundle.slots[1:]]
    checks = [
        f"  {quoted(f'layer {check.layer} ({check.kind}): {check.message}')},"
        for check in bundle.checks
    ] or ['  "",']
    tables = "\n".join(
        [
            "static const Array arrays[] = {",
            *rows,
            "};",
            "static const char* const checks[] = {",
            *checks,
            "};",
        ]
    )
    program = _MAIN.replace("@TABLES@", tables).replace("@VISIBLE@", visible_text())
    return _INCLUDES + bundle.text + program


def file_name(slot: str) -> str:
    """The file that holds an array."""
    return slot.replace("/", ".") + ".npy"


def _row(slot: SlotEntry, column_major: bool) -> str:
    extents = slot.shape[::-1] if column_major else slot.shape
    shape = f"({', '.join(map(str, extents))}{',' * (len(extents) == 1)})"
    # numpy calls an array that is in both orders row-major.
    is_fortran = column_major and sum(extent > 1 for extent in extents) > 1
    header = (
        f"{{'descr': '{_DESCRIPTIONS[slot.dtype]}', 'fortran_order': {is_fortran},"
        f" 'shape': {shape}, }}"
    )
    size = 1
    for extent in slot.shape:
        size *= extent
    size *= int(_DESCRIPTIONS[slot.dtype][-1])
    flags = (slot.role != "output", slot.role in _ZERO_IF_MISSING, slot.role in _MADE)
    shown = ", ".join("true" if flag else "false" for flag in flags)
    packed = header.replace(" ", "")
    return f'  {{{quoted(file_name(slot.name))}, "{packed}", {size}, {shown}}},'
