#pragma once
// Four lanes of float32 in AArch64's NEON registers; included by vec.h, inside its namespace. bfloat16 goes by
// integer shifts, since the instructions for it came with Armv8.6.

struct Vec {
  static constexpr index_t size = 4;
  typedef float32x4_t Lanes;
  Lanes v;
  FUSEDLM_VEC Vec() : v(vdupq_n_f32(0)) {}
  FUSEDLM_VEC Vec(Lanes x) : v(x) {}
  FUSEDLM_VEC Vec(float x) : v(vdupq_n_f32(x)) {}
  FUSEDLM_VEC static Vec load(const float* p) { return vld1q_f32(p); }
  FUSEDLM_VEC static Vec load(const bfloat16* p) {
    return vreinterpretq_f32_u32(vshll_n_u16(load_bits(p), 16));
  }
  FUSEDLM_VEC static Vec load(const float16* p) {
    return vcvt_f32_f16(vreinterpret_f16_u16(load_bits(p)));
  }
  // The first n < size elements, the rest 0; nothing behind them is read or written.
  template <class T>
  FUSEDLM_VEC static Vec load(const T* p, index_t n) {
    Vec x;
    for (index_t i = 0; i < n; ++i) x.v[i] = load_unaligned(p + i);
    return x;
  }
  FUSEDLM_VEC static uint16x4_t load_bits(const void* p) {
    uint16x4_t x;
    std::memcpy(&x, p, sizeof x);
    return x;
  }
  FUSEDLM_VEC void store(float* p) const { vst1q_f32(p, v); }
  FUSEDLM_VEC void store(bfloat16* p) const {
    const uint32x4_t bits = vreinterpretq_u32_f32(v);
    const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    const uint32x4_t up = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
    const uint32x4_t nan = vorrq_u32(bits, vdupq_n_u32(0x400000));
    vst1_u16(&p->bits, vshrn_n_u32(vbslq_u32(vceqq_f32(v, v), up, nan), 16));
  }
  template <class T>
  FUSEDLM_VEC void store(T* p, index_t n) const {
    for (index_t i = 0; i < n; ++i) p[i] = from_float<T>(v[i]);
  }
};
FUSEDLM_VEC Vec operator+(Vec a, Vec b) { return vaddq_f32(a.v, b.v); }
FUSEDLM_VEC Vec operator-(Vec a, Vec b) { return vsubq_f32(a.v, b.v); }
FUSEDLM_VEC Vec operator*(Vec a, Vec b) { return vmulq_f32(a.v, b.v); }
FUSEDLM_VEC Vec operator/(Vec a, Vec b) { return vdivq_f32(a.v, b.v); }
FUSEDLM_VEC Vec fma(Vec a, Vec b, Vec c) { return vfmaq_f32(c.v, a.v, b.v); }
FUSEDLM_VEC Vec select_less(Vec a, Vec b, Vec x, Vec y) {
  return vbslq_f32(vcltq_f32(a.v, b.v), x.v, y.v);
}
// NEON's own maximum is NaN where either is; here, as on x86, the second is returned.
FUSEDLM_VEC Vec max(Vec a, Vec b) { return select_less(b, a, a, b); }
FUSEDLM_VEC Vec min(Vec a, Vec b) { return select_less(a, b, a, b); }
FUSEDLM_VEC Vec sqrt(Vec a) { return vsqrtq_f32(a.v); }
FUSEDLM_VEC Vec abs(Vec a) { return vabsq_f32(a.v); }
FUSEDLM_VEC Vec round(Vec a) { return vrndnq_f32(a.v); }
FUSEDLM_VEC Vec scale_by_power(Vec x, Vec n) {
  const int32x4_t whole = vcvtq_s32_f32(n.v), half = vshrq_n_s32(whole, 1);
  const auto power = [](int32x4_t e) {
    return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(e, vdupq_n_s32(127)), 23));
  };
  return vmulq_f32(vmulq_f32(x.v, power(half)), power(vsubq_s32(whole, half)));
}
FUSEDLM_VEC float reduce_sum(Vec a) {
  const float32x2_t halves = vadd_f32(vget_low_f32(a.v), vget_high_f32(a.v));
  return vget_lane_f32(vpadd_f32(halves, halves), 0);
}
FUSEDLM_VEC float reduce_max(Vec a) {
  const float low = a.v[0] > a.v[1] ? a.v[0] : a.v[1], high = a.v[2] > a.v[3] ? a.v[2] : a.v[3];
  return low > high ? low : high;
}
