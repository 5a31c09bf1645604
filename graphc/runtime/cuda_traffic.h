// Counts what the warps of an emulated kernel ask of memory:  g++ -DGRAPHC_COUNT_TRAFFIC ...
//
// A warp's access is what its lanes do the n-th time at one place of the program. Shared memory has
// 32 banks of 4 bytes: words of one bank that differ are served one after another. 32 lanes of 4
// bytes are one go, of 8 bytes two, of 16 four. Global memory is read and written in sectors of 32
// bytes. Cf. the CUDA C++ Best Practices Guide, "Coalesced Access to Global Memory", "Shared Memory".
#pragma once
#include <algorithm>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <utility>

namespace emulator {

struct Traffic {  // of one kernel and one of its buffers
  long long accesses = 0, goes = 0, least_goes = 0;   // shared memory
  long long sectors = 0, least_sectors = 0;           // global memory
};

struct WarpAccess {
  unsigned bytes = 0;
  std::map<unsigned, uintptr_t> places;  // by lane
};

// (site, how often the lane had been there) -> what the lanes of a warp touch, by buffer
using Site = std::pair<const void*, unsigned>;
struct Meter {
  std::map<std::pair<Site, std::string>, WarpAccess> warps[32];
  std::map<std::pair<unsigned, const void*>, unsigned> visits;  // by (thread, site)
  std::map<std::pair<std::string, std::string>, Traffic> totals;
  std::string text;
};
inline Meter meter;

inline void count_shared(const WarpAccess& access, Traffic& total) {
  const unsigned together = std::min(32u, 128 / access.bytes);  // lanes that one go can serve
  total.accesses++;
  for (unsigned first = 0; first < 32; first += together) {
    std::set<uintptr_t> words[32];
    for (unsigned lane = first; lane < first + together; lane++) {
      const auto found = access.places.find(lane);
      if (found == access.places.end()) continue;
      for (unsigned byte = 0; byte < access.bytes; byte += 4) {
        const uintptr_t word = (found->second + byte) / 4;
        words[word % 32].insert(word);
      }
    }
    size_t most = 0;
    for (const auto& bank : words) most = std::max(most, bank.size());
    total.goes += most;
    total.least_goes += most > 0;
  }
}

inline void count_global(const WarpAccess& access, Traffic& total) {
  std::set<uintptr_t> sectors, bytes;
  for (const auto& [lane, place] : access.places) {
    for (unsigned byte = 0; byte < access.bytes; byte++) bytes.insert(place + byte);
    for (uintptr_t s = place / 32; s <= (place + access.bytes - 1) / 32; s++) sectors.insert(s);
  }
  total.accesses++;
  total.sectors += sectors.size();
  total.least_sectors += (bytes.size() + 31) / 32;
}

// One lane's access; null: the lane was there and touched nothing.
inline void count_access(const void* site, unsigned thread, const char* buffer, bool is_shared,
                         uintptr_t place, unsigned bytes) {
  const unsigned visit = meter.visits[{thread, site}]++;
  if (!is_shared && !place) return;
  const std::string name = is_shared ? "shared" : buffer;
  WarpAccess& access = meter.warps[thread / 32][{{site, visit}, name}];
  access.bytes = bytes;
  access.places[thread % 32] = place;
}

inline void end_of_counted_block(const char* kernel) {
  for (auto& warp : meter.warps) {
    for (const auto& [key, access] : warp) {
      Traffic& total = meter.totals[{kernel, key.second}];
      key.second == "shared" ? count_shared(access, total) : count_global(access, total);
    }
    warp.clear();
  }
  meter.visits.clear();
}

}  // namespace emulator

// "kernel<tab>buffer<tab>accesses goes least-goes sectors least-sectors" for each, and begin again.
extern "C" inline __attribute__((used)) const char* graphc_traffic() {
  using namespace emulator;
  meter.text.clear();
  for (const auto& [key, t] : meter.totals) {
    meter.text += key.first + "\t" + key.second;
    for (long long number : {t.accesses, t.goes, t.least_goes, t.sectors, t.least_sectors})
      meter.text += "\t" + std::to_string(number);
    meter.text += "\n";
  }
  meter.totals.clear();
  return meter.text.c_str();
}
