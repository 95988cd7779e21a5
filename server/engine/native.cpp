// What a lean forward computes between its products, on the CPU: see native.py, which compiles it.
//
// Numbers are float32 side by side; keys and values may be of 16 bits. A row, and in attention a row's heads of one KV
// head, is computed by one thread in an order that depends on nothing else, so that its bits are the same in any
// company.

#include <ATen/cpu/vec/functional.h>
#include <ATen/cpu/vec/vec.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

using Vec = at::vec::Vectorized<float>;

namespace {

constexpr int64_t LANES = Vec::size();
// Numbers that take longer to compute than a thread to wake: those read, and those multiplied in attention.
constexpr int64_t READ = 1 << 15, MULTIPLIED = 1 << 17;
constexpr int TOGETHER = 4;  // Queries that share what is loaded of keys and values.

Vec load(const float* from) { return Vec::loadu(from); }

Vec load(const at::BFloat16* from) {
  Vec wide;
  at::vec::load_fp32_from_bf16(from, wide);
  return wide;
}

Vec load(const at::Half* from) {
  Vec wide;
  at::vec::load_fp32_from_fp16(from, wide);
  return wide;
}

float sum(const Vec& lanes) { return at::vec::VecReduceAllSIMD<float, std::plus<Vec>>::apply(std::plus<Vec>(), lanes); }

float most(const Vec& lanes) {
  auto larger = [](const Vec& one, const Vec& other) { return at::vec::maximum(one, other); };
  return at::vec::VecReduceAllSIMD<float, decltype(larger)>::apply(larger, lanes);
}

// RMS norm of one row; out may be x.
void normalize(const float* x, const float* weight, float epsilon, int64_t size, float* out) {
  Vec squares(0);
  for (int64_t i = 0; i < size; i += LANES) squares = at::vec::fmadd(load(x + i), load(x + i), squares);
  const Vec scale(1 / std::sqrt(sum(squares) / size + epsilon));
  for (int64_t i = 0; i < size; i += LANES) (load(x + i) * scale * load(weight + i)).store(out + i);
}

// A head's RMS norm, if it has one, and rotation, in place.
void turn(float* x, const float* cosines, const float* sines, const float* weight, float epsilon, int64_t dim) {
  if (weight) normalize(x, weight, epsilon, dim, x);
  const int64_t half = dim / 2;
  for (int64_t i = 0, j = half; i < half; i += LANES, j += LANES) {
    const Vec first = load(x + i), second = load(x + j);
    (first * load(cosines + i) - second * load(sines + i)).store(x + i);
    (second * load(cosines + j) + first * load(sines + j)).store(x + j);
  }
}

// Scores to weights that still have to be divided by their sum, which it returns.
float exponentiate(float* scores, int64_t count) {
  const int64_t whole = (count + LANES - 1) / LANES * LANES;
  std::fill(scores + count, scores + whole, -std::numeric_limits<float>::infinity());
  Vec peaks = load(scores), sums(0);
  for (int64_t t = LANES; t < whole; t += LANES) peaks = at::vec::maximum(peaks, load(scores + t));
  const Vec peak(most(peaks));
  for (int64_t t = 0; t < whole; t += LANES) {
    const Vec weights = (load(scores + t) - peak).exp_u20();
    weights.store(scores + t);
    sums = sums + weights;
  }
  return sum(sums);
}

// Attention of G queries side by side over `count` keys. scores: room for G rows of `wide` numbers.
template <int G, typename T>
void mix(const float* q, const T* keys, const T* values, int64_t count, int64_t dim, float scale, float* scores,
         int64_t wide, float* out) {
  for (int64_t t = 0; t < count; t++) {
    Vec sums[G];
    std::fill(sums, sums + G, Vec(0));
    for (int64_t i = 0; i < dim; i += LANES) {
      const Vec key = load(keys + t * dim + i);
      for (int g = 0; g < G; g++) sums[g] = at::vec::fmadd(key, load(q + g * dim + i), sums[g]);
    }
    for (int g = 0; g < G; g++) scores[g * wide + t] = sum(sums[g]) * scale;
  }
  float whole[G];
  for (int g = 0; g < G; g++) whole[g] = exponentiate(scores + g * wide, count);
  for (int64_t i = 0; i < dim; i += 2 * LANES) {
    Vec sums[G][2];
    for (int g = 0; g < G; g++) sums[g][0] = sums[g][1] = Vec(0);
    for (int64_t t = 0; t < count; t++) {
      const Vec first = load(values + t * dim + i), second = load(values + t * dim + i + LANES);
      for (int g = 0; g < G; g++) {
        const Vec weight(scores[g * wide + t]);
        sums[g][0] = at::vec::fmadd(weight, first, sums[g][0]);
        sums[g][1] = at::vec::fmadd(weight, second, sums[g][1]);
      }
    }
    for (int g = 0; g < G; g++) {
      (sums[g][0] / Vec(whole[g])).store(out + g * dim + i);
      (sums[g][1] / Vec(whole[g])).store(out + g * dim + i + LANES);
    }
  }
}

// Attention of a row's new token in `group` heads that share keys.
template <typename T>
void attend_alone(const float* q, const T* keys, const T* values, int64_t count, int64_t group, int64_t dim,
                  float scale, float* out) {
  static thread_local std::vector<float> scores;
  const int64_t wide = (count + LANES - 1) / LANES * LANES;
  scores.resize(TOGETHER * wide);
  for (int64_t head = 0; head < group; head += TOGETHER) {
    const auto mixed = group - head >= 4   ? mix<4, T>
                       : group - head == 3 ? mix<3, T>
                       : group - head == 2 ? mix<2, T>
                                           : mix<1, T>;
    mixed(q + head * dim, keys, values, count, dim, scale, scores.data(), wide, out + head * dim);
  }
}

// How a layer attends. The weights of the RMS norms of heads, `[dim]`, may be none; window: keys that are seen, 0 for
// all.
struct Shape {
  const float *query_norm, *key_norm;
  int64_t layer, kv_heads, group, dim, window;
  float epsilon, scale;
};

// A row's KV memory, `[layers, 2, kv_heads, capacity, dim]`, and the position of its new token. address: 0 for a row
// that is not one new token of a generation, which is turned, and no more.
struct Place {
  int64_t address, capacity, position;
};

template <typename T>
void attend_all(const Shape& shape, float* qkv, const float* cosines, const float* sines, const Place* places,
                int64_t rows, float* out, int threads) {
  int64_t work = 0;
  for (int64_t row = 0; row < rows; row++)
    work += (places[row].position + 1) * shape.kv_heads * shape.group * shape.dim;
#pragma omp parallel for num_threads(threads) schedule(dynamic) if (work > MULTIPLIED)
  for (int64_t task = 0; task < rows * shape.kv_heads; task++) {
    const int64_t row = task / shape.kv_heads, head = task % shape.kv_heads;
    const auto [query_norm, key_norm, layer, kv_heads, group, dim, window, epsilon, scale] = shape;
    const float *const cosine = cosines + row * dim, *const sine = sines + row * dim;
    float* const q = qkv + (row * kv_heads * (group + 2) + head * group) * dim;
    float* const k = qkv + (row * kv_heads * (group + 2) + kv_heads * group + head) * dim;
    const float* const v = k + kv_heads * dim;
    for (int64_t g = 0; g < group; g++) turn(q + g * dim, cosine, sine, query_norm, epsilon, dim);
    turn(k, cosine, sine, key_norm, epsilon, dim);
    const auto [address, capacity, position] = places[row];
    if (!address) continue;
    T* const keys = reinterpret_cast<T*>(address) + (layer * 2 * kv_heads + head) * capacity * dim;
    T* const values = keys + kv_heads * capacity * dim;
    std::copy(k, k + dim, keys + position * dim);
    std::copy(v, v + dim, values + position * dim);
    const int64_t first = window ? std::max<int64_t>(0, position - window + 1) : 0;
    attend_alone<T>(q, keys + first * dim, values + first * dim, position + 1 - first, group, dim, scale,
                    out + (row * kv_heads + head) * group * dim);
  }
}

}  // namespace

extern "C" {

int64_t lanes() { return LANES; }

// x += more, if there is any, and the RMS norm of each row. x, more, out: `[rows, size]`.
void norm(float* x, const float* more, const float* weight, float epsilon, float* out, int64_t rows, int64_t size,
          int threads) {
#pragma omp parallel for num_threads(threads) if (rows * size > READ)
  for (int64_t row = 0; row < rows; row++) {
    float* const here = x + row * size;
    if (more)
      for (int64_t i = 0; i < size; i += LANES) (load(here + i) + load(more + row * size + i)).store(here + i);
    normalize(here, weight, epsilon, size, out + row * size);
  }
}

// silu(gate) * up. both: `[rows, 2 * size]`, gate and up side by side; out: `[rows, size]`.
void gated(const float* both, float* out, int64_t rows, int64_t size, int threads) {
#pragma omp parallel for num_threads(threads) if (rows * size > READ)
  for (int64_t row = 0; row < rows; row++)
    for (int64_t i = 0; i < size; i += LANES) {
      const Vec gate = load(both + 2 * row * size + i), up = load(both + (2 * row + 1) * size + i);
      (gate / (Vec(1) + gate.neg().exp()) * up).store(out + row * size + i);
    }
}

// Queries and keys turned in place, keys and values stored, and the attention of the rows that are one new token.
// qkv: `[rows, (group + 2) * kv_heads, dim]`; cosines, sines: `[rows, dim]`; out: `[rows, kv_heads * group, dim]`, of
// which only these rows are written. kind: of keys and values, by its place among KINDS in native.py.
void attend(const Shape* shape, float* qkv, const float* cosines, const float* sines, const Place* places, int64_t rows,
            float* out, int threads, int kind) {
  const auto attend = kind == 0 ? attend_all<float> : kind == 1 ? attend_all<at::BFloat16> : attend_all<at::Half>;
  attend(*shape, qkv, cosines, sines, places, rows, out, threads);
}
}
