#include "isa/isa.h"

#include <array>

#if defined(SLIPSTREAM_X86)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#elif defined(SLIPSTREAM_ARM) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace slipstream {
namespace {

constexpr std::array kIsas = {Isa::portable, Isa::avx2, Isa::avx512,
                              Isa::amx,      Isa::neon, Isa::i8mm};
constexpr std::array<std::string_view, 6> kNames = {"portable", "avx2", "avx512",
                                                    "amx",      "neon", "i8mm"};

#if defined(SLIPSTREAM_X86)

struct Registers {
  unsigned a = 0, b = 0, c = 0, d = 0;
};

Registers cpuid(unsigned leaf, unsigned subleaf) {
  Registers out;
  if (__get_cpuid_max(0, nullptr) >= leaf) __cpuid_count(leaf, subleaf, out.a, out.b, out.c, out.d);
  return out;
}

constexpr bool has(unsigned word, std::initializer_list<int> bits) {
  for (const int bit : bits)
    if (!(word >> bit & 1u)) return false;
  return true;
}

// XCR0: the register states that the operating system saves; 0 when it saves none.
unsigned saved_states() {
  constexpr int osxsave = 27;
  if (!has(cpuid(1, 0).c, {osxsave})) return 0;
  unsigned low = 0, high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}

bool avx2_supported() {
  constexpr int fma = 12, f16c = 29, avx = 28, avx2 = 5;
  const bool registers_saved = has(saved_states(), {1, 2});
  return registers_saved && has(cpuid(1, 0).c, {fma, f16c, avx}) && has(cpuid(7, 0).b, {avx2});
}

bool avx512_supported() {
  constexpr int f = 16, dq = 17, bw = 30, vl = 31, vnni = 11;
  const Registers seven = cpuid(7, 0);
  const bool registers_saved = has(saved_states(), {5, 6, 7});
  return avx2_supported() && registers_saved && has(seven.b, {f, dq, bw, vl}) &&
         has(seven.c, {vnni});
}

// Linux gives the 8 KiB of tiles only to processes that ask (arch_prctl ARCH_REQ_XCOMP_PERM).
bool tiles_permitted() {
#if defined(__linux__)
  constexpr long request_permission = 0x1023, tile_data = 18;
  return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
  return false;
#endif
}

bool vbmi2_supported() { return avx512_supported() && has(cpuid(7, 0).c, {6}); }

bool amx_supported() {
  constexpr int amx_bf16 = 22, amx_tile = 24, amx_int8 = 25;
  return vbmi2_supported() && has(saved_states(), {17, 18}) &&
         has(cpuid(7, 0).d, {amx_bf16, amx_tile, amx_int8}) && tiles_permitted();
}

#elif defined(SLIPSTREAM_ARM)

bool dot_product_supported() {
#if defined(__linux__)
  constexpr unsigned long asimddp = 1ul << 20;
  return (getauxval(AT_HWCAP) & asimddp) != 0;
#else
  return true;  // every processor of Apple's since 2019
#endif
}

bool matrix_product_supported() {
#if defined(__linux__)
  constexpr unsigned long i8mm = 1ul << 13;
  return dot_product_supported() && (getauxval(AT_HWCAP2) & i8mm) != 0;
#else
  return false;
#endif
}

#endif

}  // namespace

std::string_view isa_name(Isa isa) { return kNames[std::size_t(isa)]; }

std::optional<Isa> isa_from_name(std::string_view name) {
  for (const Isa isa : kIsas)
    if (isa_name(isa) == name) return isa;
  return std::nullopt;
}

bool isa_supported(Isa isa) {
#if defined(SLIPSTREAM_X86)
  static const bool avx2 = avx2_supported(), avx512 = avx512_supported(), amx = amx_supported();
  switch (isa) {
    case Isa::portable:
      return true;
    case Isa::avx2:
      return avx2;
    case Isa::avx512:
      return avx512;
    case Isa::amx:
      return amx;
    case Isa::neon:
    case Isa::i8mm:
      return false;
  }
  return false;
#elif defined(SLIPSTREAM_ARM)
  static const bool dot = dot_product_supported(), matrix = matrix_product_supported();
  return isa == Isa::portable || (isa == Isa::neon && dot) || (isa == Isa::i8mm && matrix);
#else
  return isa == Isa::portable;
#endif
}

bool expands_bytes() {
#if defined(SLIPSTREAM_X86)
  static const bool there = vbmi2_supported();
  return there;
#else
  return false;
#endif
}

std::vector<Isa> isas_supported() {
  std::vector<Isa> out;
  for (const Isa isa : kIsas)
    if (isa_supported(isa)) out.push_back(isa);
  return out;
}

Isa detect() { return isas_supported().back(); }

}  // namespace slipstream
