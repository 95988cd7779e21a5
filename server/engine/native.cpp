// The layers of a lean forward on the CPU: see native.py, which compiles it.
//
// Numbers are float32 and side by side; weights, keys and values may be of 16 bits. What a row gets is computed in an
// order that depends on nothing but the sizes of the layer and the row's own length, so that its bits are the same in
// any company, on any number of threads.

#include <ATen/cpu/vec/functional.h>
#include <ATen/cpu/vec/vec.h>
#include <c10/util/Unroll.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

using Vec = at::vec::Vectorized<float>;

namespace {

constexpr int64_t LANES = Vec::size();
constexpr int64_t PANEL = 2 * LANES;  // Outputs whose weights lie together.
// Rows that share what is loaded of weights, at most: as many as registers hold, of which AVX2 has 16 and others 32.
constexpr int TILE = LANES == 8 ? 6 : 12;
constexpr int64_t BLOCK = 512;  // Inputs at a time, whose weights stay in the nearest cache; keys summed at a time.
constexpr int GROUP = 4;        // Queries that share what is loaded of keys and values.
// Numbers, read or multiplied, that take longer to compute than a thread to wake.
constexpr int64_t READ = 1 << 15, MULTIPLIED = 1 << 16;

// Arrays of vectors are kept in registers only if they are indexed by constants.
template <int N, typename F>
void times(const F& body) {
  c10::ForcedUnroll<N>{}(body);
}

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

// A linear layer. panels: weights `[count, inputs, PANEL]`; kind: of them, by its place among KINDS in native.py; bias:
// `[count * PANEL]`, or none.
struct Linear {
  const void* panels;
  const float* bias;
  int64_t inputs, count, kind;
};

// R rows by C vectors of outputs, of inputs from `begin` to `end`: added to what `out` has, or to the bias.
template <int R, int C, typename T>
void tile(const Linear& linear, int64_t panel, const float* x, float* out, int64_t begin, int64_t end) {
  const int64_t in = linear.inputs, size = linear.count * PANEL;
  const T* const weights = static_cast<const T*>(linear.panels) + panel * in * PANEL;
  Vec sums[R * C];
  times<R * C>([&](auto i) {
    const int64_t row = i / C, place = panel * PANEL + i % C * LANES;
    sums[i] = begin ? load(out + row * size + place) : linear.bias ? load(linear.bias + place) : Vec(0);
  });
  for (int64_t k = begin; k < end; k++) {
    Vec loaded[C];
    times<C>([&](auto c) { loaded[c] = load(weights + (c / 2 * in + k) * PANEL + c % 2 * LANES); });
    times<R>([&](auto r) {
      const Vec input(x[r * in + k]);
      times<C>([&](auto c) { sums[r * C + c] = at::vec::fmadd(input, loaded[c], sums[r * C + c]); });
    });
  }
  times<R * C>([&](auto i) { sums[i].store(out + i / C * size + panel * PANEL + i % C * LANES); });
}

template <typename T, size_t... R>
constexpr auto tiles(std::index_sequence<R...>) {
  return std::array{&tile<int(R) + 1, 2, T>...};
}

// A panel of all rows, which are divided into tiles of about the same size.
template <typename T>
void panel_of_rows(const Linear& linear, int64_t panel, const float* x, float* out, int64_t rows) {
  static constexpr auto TILES = tiles<T>(std::make_index_sequence<TILE>());
  const int64_t count = (rows + TILE - 1) / TILE, size = (rows + count - 1) / count;
  for (int64_t begin = 0; begin < linear.inputs; begin += BLOCK) {
    const int64_t end = std::min(begin + BLOCK, linear.inputs);
    for (int64_t row = 0; row < rows; row += size)
      TILES[std::min(size, rows - row) - 1](linear, panel, x + row * linear.inputs, out + row * linear.count * PANEL,
                                            begin, end);
  }
}

template <typename T>
void multiply_rows(const Linear& linear, const float* x, float* out, int64_t rows, int threads) {
  const int64_t pairs = (linear.count + 1) / 2;
#pragma omp parallel for num_threads(threads) if (rows * linear.inputs * linear.count * PANEL > MULTIPLIED)
  for (int64_t pair = 0; pair < pairs; pair++) {
    const int64_t panel = 2 * pair;
    if (rows == 1 && panel + 1 < linear.count) {  // one alone has too few sums under way to keep the processor busy
      tile<1, 4, T>(linear, panel, x, out, 0, linear.inputs);
      continue;
    }
    for (int64_t one = panel; one < std::min(panel + 2, linear.count); one++)
      panel_of_rows<T>(linear, one, x, out, rows);
  }
}

void multiply(const Linear& linear, const float* x, float* out, int64_t rows, int threads) {
  if (!rows) return;  // a step may have only parts of prompts, none of which draws
  const auto rows_of = linear.kind == 0   ? multiply_rows<float>
                       : linear.kind == 1 ? multiply_rows<at::BFloat16>
                                          : multiply_rows<at::Half>;
  rows_of(linear, x, out, rows, threads);
}

// An RMS norm. weight: `[size]`, or none where there is no norm.
struct Norm {
  const float* weight;
  int64_t size;
  float epsilon;
};

// Of one row; out may be x.
void normalize(const Norm& norm, const float* x, float* out) {
  Vec squares(0);
  for (int64_t i = 0; i < norm.size; i += LANES) squares = at::vec::fmadd(load(x + i), load(x + i), squares);
  const Vec scale(1 / std::sqrt(sum(squares) / norm.size + norm.epsilon));
  for (int64_t i = 0; i < norm.size; i += LANES) (load(x + i) * scale * load(norm.weight + i)).store(out + i);
}

void normalize_rows(const Norm& norm, const float* x, float* out, int64_t rows, int threads) {
#pragma omp parallel for num_threads(threads) if (rows * norm.size > READ)
  for (int64_t row = 0; row < rows; row++) normalize(norm, x + row * norm.size, out + row * norm.size);
}

void add(float* x, const float* more, int64_t count, int threads) {
#pragma omp parallel for num_threads(threads) if (count > READ)
  for (int64_t i = 0; i < count; i += LANES) (load(x + i) + load(more + i)).store(x + i);
}

// silu(gate) * up. both: `[rows, 2 * size]`, gate and up of a row side by side.
void gate(const float* both, float* out, int64_t rows, int64_t size, int threads) {
#pragma omp parallel for num_threads(threads) if (rows * size > READ)
  for (int64_t row = 0; row < rows; row++)
    for (int64_t i = 0; i < size; i += LANES) {
      const Vec gate = load(both + 2 * row * size + i), up = load(both + (2 * row + 1) * size + i);
      (gate / (Vec(1) + gate.neg().exp()) * up).store(out + row * size + i);
    }
}

// A head's norm, if there is one, and its rotation, in place.
void turn(const Norm& norm, float* x, const float* cosines, const float* sines) {
  if (norm.weight) normalize(norm, x, x);
  const int64_t half = norm.size / 2;
  for (int64_t i = 0, j = half; i < half; i += LANES, j += LANES) {
    const Vec first = load(x + i), second = load(x + j);
    (first * load(cosines + i) - second * load(sines + i)).store(x + i);
    (second * load(cosines + j) + first * load(sines + j)).store(x + j);
  }
}

// Scores to weights that are yet to be divided by their sum, which it returns. There is room up to whole vectors.
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
    times<G>([&](auto g) { sums[g] = Vec(0); });
    for (int64_t i = 0; i < dim; i += LANES) {
      const Vec key = load(keys + t * dim + i);
      times<G>([&](auto g) { sums[g] = at::vec::fmadd(key, load(q + g * dim + i), sums[g]); });
    }
    times<G>([&](auto g) { scores[g * wide + t] = sum(sums[g]) * scale; });
  }
  float whole[G];
  for (int g = 0; g < G; g++) whole[g] = exponentiate(scores + g * wide, count);
  for (int64_t i = 0; i < dim; i += 2 * LANES) {
    const auto place = [&](auto g) { return out + g / 2 * dim + i + g % 2 * LANES; };
    for (int64_t begin = 0; begin < count; begin += BLOCK) {
      Vec sums[2 * G];
      times<2 * G>([&](auto g) { sums[g] = Vec(0); });
      for (int64_t t = begin; t < std::min(begin + BLOCK, count); t++) {
        const Vec first = load(values + t * dim + i), second = load(values + t * dim + i + LANES);
        times<G>([&](auto g) {
          const Vec weight(scores[g * wide + t]);
          sums[2 * g] = at::vec::fmadd(weight, first, sums[2 * g]);
          sums[2 * g + 1] = at::vec::fmadd(weight, second, sums[2 * g + 1]);
        });
      }
      times<2 * G>([&](auto g) { (begin ? load(place(g)) + sums[g] : sums[g]).store(place(g)); });
    }
    times<2 * G>([&](auto g) { (load(place(g)) / Vec(whole[g / 2])).store(place(g)); });
  }
}

// Attention of one token in `heads` heads that share keys.
template <typename T>
void attend_keys(const float* q, const T* keys, const T* values, int64_t count, int64_t heads, int64_t dim, float scale,
                 float* out) {
  static thread_local std::vector<float> scores;
  const int64_t wide = (count + LANES - 1) / LANES * LANES;
  scores.resize(GROUP * wide);
  for (int64_t head = 0; head < heads; head += GROUP) {
    const auto some = heads - head >= 4   ? mix<4, T>
                      : heads - head == 3 ? mix<3, T>
                      : heads - head == 2 ? mix<2, T>
                                          : mix<1, T>;
    some(q + head * dim, keys, values, count, dim, scale, scores.data(), wide, out + head * dim);
  }
}

// A row's KV memory, `[layers, 2, kv_heads, capacity, dim]`, and the position of its new token. address: 0 for a row
// that is not one new token of a generation, which is turned, and no more.
struct Place {
  int64_t address, capacity, position;
};

// How a layer attends. group: heads to a KV head; window: keys that are seen, 0 for all; kind: of keys and values.
struct Attention {
  Norm query, key;
  int64_t layer, kv_heads, group, dim, window, kind;
  float scale;
};

// A layer: attention, and a gated MLP.
struct Layer {
  Norm before, between;
  Linear qkv, out, gate_up, down;
  Attention attention;
};

// The rows of a step, and room to compute. x: the hidden states; normed, more: as large; qkv: `[rows, (group + 2) *
// kv_heads, dim]`; mixed: `[rows, group * kv_heads, dim]`; both: gate and up; inner: half as large. cosines, sines:
// `[rows, dim]`.
struct Step {
  float *x, *normed, *more, *qkv, *mixed, *both, *inner;
  const float *cosines, *sines;
  const Place* places;
  int64_t rows;
  int threads;
};

// Queries and keys turned, keys and values stored, and the attention of rows that are one new token.
template <typename T>
void attend_rows(const Attention& attention, const Step& step) {
  const int64_t kv_heads = attention.kv_heads, group = attention.group, dim = attention.dim;
  int64_t work = 0;
  for (int64_t row = 0; row < step.rows; row++) work += (step.places[row].position + 1) * kv_heads * group * dim;
#pragma omp parallel for num_threads(step.threads) schedule(dynamic) if (work > MULTIPLIED)
  for (int64_t task = 0; task < step.rows * kv_heads; task++) {
    const int64_t row = task / kv_heads, head = task % kv_heads;
    const float *const cosines = step.cosines + row * dim, *const sines = step.sines + row * dim;
    float* const q = step.qkv + (row * kv_heads * (group + 2) + head * group) * dim;
    float* const k = step.qkv + (row * kv_heads * (group + 2) + kv_heads * group + head) * dim;
    const float* const v = k + kv_heads * dim;
    for (int64_t g = 0; g < group; g++) turn(attention.query, q + g * dim, cosines, sines);
    turn(attention.key, k, cosines, sines);
    const Place& place = step.places[row];
    if (!place.address) continue;
    const int64_t size = place.capacity * dim, position = place.position;
    T* const keys = reinterpret_cast<T*>(place.address) + (attention.layer * 2 * kv_heads + head) * size;
    T* const values = keys + kv_heads * size;
    std::copy(k, k + dim, keys + position * dim);
    std::copy(v, v + dim, values + position * dim);
    const int64_t first = attention.window ? std::max<int64_t>(0, position + 1 - attention.window) : 0;
    attend_keys<T>(q, keys + first * dim, values + first * dim, position + 1 - first, group, dim, attention.scale,
                   step.mixed + (row * kv_heads + head) * group * dim);
  }
}

}  // namespace

extern "C" {

int64_t panel() { return PANEL; }

// `[rows, inputs]` to `[rows, count * PANEL]`.
void linear(const Linear* linear, const float* x, float* out, int64_t rows, int threads) {
  multiply(*linear, x, out, rows, threads);
}

void norm(const Norm* norm, const float* x, float* out, int64_t rows, int threads) {
  normalize_rows(*norm, x, out, rows, threads);
}

// From hidden states to what heads have mixed, for rows that are one new token: `mixed` of the others is to be filled.
void attend(const Layer* layer, const Step* step) {
  normalize_rows(layer->before, step->x, step->normed, step->rows, step->threads);
  multiply(layer->qkv, step->normed, step->qkv, step->rows, step->threads);
  const int64_t kind = layer->attention.kind;
  const auto rows_of = kind == 0 ? attend_rows<float> : kind == 1 ? attend_rows<at::BFloat16> : attend_rows<at::Half>;
  rows_of(layer->attention, *step);
}

// From what heads have mixed to the next layer's hidden states.
void feed(const Layer* layer, const Step* step) {
  const int64_t rows = step->rows, count = rows * layer->before.size;
  multiply(layer->out, step->mixed, step->more, rows, step->threads);
  add(step->x, step->more, count, step->threads);
  normalize_rows(layer->between, step->x, step->normed, rows, step->threads);
  multiply(layer->gate_up, step->normed, step->both, rows, step->threads);
  gate(step->both, step->inner, rows, layer->down.inputs, step->threads);
  multiply(layer->down, step->inner, step->more, rows, step->threads);
  add(step->x, step->more, count, step->threads);
}

// All layers, for a step whose rows are one new token each.
void decode(const Layer* layers, int64_t count, const Step* step) {
  for (const Layer* layer = layers; layer < layers + count; layer++) {
    attend(layer, step);
    feed(layer, step);
  }
}
}
