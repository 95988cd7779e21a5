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
constexpr int GROUP = 4;        // Queries of one token that share what is loaded of keys and values.
constexpr int64_t QUERIES = 192, KEYS = 256;  // Of a prompt, at a time.
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

// Weights of a product, of which outputs lie together in panels. stride: from an input to the next; apart: from a panel
// to the next; bias: of each output, or none.
template <typename T>
struct Panels {
  const T* weights;
  int64_t stride, apart;
  const float* bias;
};

// R rows, `wide` apart, by C vectors of outputs, whose rows are `size` apart, of inputs from `begin` to `end`. more:
// added to what `out` has, else to the bias.
template <int R, int C, typename T>
void tile(const Panels<T>& panels, const float* x, int64_t wide, float* out, int64_t size, int64_t begin, int64_t end,
          bool more) {
  Vec sums[R * C];
  times<R * C>([&](auto i) {
    const int64_t row = i / C, place = i % C * LANES;
    sums[i] = more ? load(out + row * size + place) : panels.bias ? load(panels.bias + place) : Vec(0);
  });
  for (int64_t k = begin; k < end; k++) {
    Vec loaded[C];
    times<C>(
        [&](auto c) { loaded[c] = load(panels.weights + c / 2 * panels.apart + k * panels.stride + c % 2 * LANES); });
    times<R>([&](auto r) {
      const Vec input(x[r * wide + k]);
      times<C>([&](auto c) { sums[r * C + c] = at::vec::fmadd(input, loaded[c], sums[r * C + c]); });
    });
  }
  times<R * C>([&](auto i) { sums[i].store(out + i / C * size + i % C * LANES); });
}

template <typename T, size_t... R>
constexpr auto tiles(std::index_sequence<R...>) {
  return std::array{&tile<int(R) + 1, 2, T>...};
}

// A panel of all rows, which are divided into tiles of about the same size.
template <typename T>
void panel_of_rows(const Panels<T>& panel, const float* x, int64_t wide, float* out, int64_t size, int64_t rows,
                   int64_t begin, int64_t end, bool more) {
  static constexpr auto TILES = tiles<T>(std::make_index_sequence<TILE>());
  const int64_t count = (rows + TILE - 1) / TILE, some = (rows + count - 1) / count;
  for (int64_t row = 0; row < rows; row += some)
    TILES[std::min(some, rows - row) - 1](panel, x + row * wide, wide, out + row * size, size, begin, end, more);
}

// A linear layer. panels: weights `[count, inputs, PANEL]`; kind: of them, by its place among KINDS in native.py; bias:
// `[count * PANEL]`, or none.
struct Linear {
  const void* panels;
  const float* bias;
  int64_t inputs, count, kind;
};

template <typename T>
void multiply_rows(const Linear& linear, const float* x, float* out, int64_t rows, int threads) {
  const int64_t pairs = (linear.count + 1) / 2, in = linear.inputs, size = linear.count * PANEL;
  together.each(rows * in * size > MULTIPLIED ? threads : 1, pairs, [&](int64_t pair) {
    const auto from = [&](int64_t panel) {
      const T* const weights = static_cast<const T*>(linear.panels) + panel * in * PANEL;
      return Panels<T>{weights, PANEL, in * PANEL, linear.bias ? linear.bias + panel * PANEL : nullptr};
    };
    const int64_t panel = 2 * pair;
    if (rows == 1 && panel + 1 < linear.count) {  // one alone has too few sums under way to keep the processor busy
      tile<1, 4, T>(from(panel), x, in, out + panel * PANEL, size, 0, in, false);
      return;
    }
    for (int64_t one = panel; one < std::min(panel + 2, linear.count); one++)
      for (int64_t begin = 0; begin < in; begin += BLOCK)
        panel_of_rows(from(one), x, in, out + one * PANEL, size, rows, begin, std::min(begin + BLOCK, in), begin > 0);
  });
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
  together.each(rows * norm.size > READ ? threads : 1, rows,
                [&](int64_t row) { normalize(norm, x + row * norm.size, out + row * norm.size); });
}

void add(float* x, const float* more, int64_t count, int threads) {
  together.each(count > READ ? threads : 1, count / LANES,
                [&](int64_t i) { (load(x + i * LANES) + load(more + i * LANES)).store(x + i * LANES); });
}

// silu(gate) * up. both: `[rows, 2 * size]`, gate and up of a row side by side.
void gate(const float* both, float* out, int64_t rows, int64_t size, int threads) {
  together.each(rows * size > READ ? threads : 1, rows, [&](int64_t row) {
    for (int64_t i = 0; i < size; i += LANES) {
      const Vec gate = load(both + 2 * row * size + i), up = load(both + (2 * row + 1) * size + i);
      (gate / (Vec(1) + gate.neg().exp()) * up).store(out + row * size + i);
    }
  });
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

// Scores from `first` to `count` to weights that are yet to be divided by their sum, which it returns; to 0 all others
// of `whole` vectors' worth. peak: the largest score so far.
float exponentiate(float* scores, int64_t first, int64_t count, int64_t whole, float& peak) {
  constexpr float none = -std::numeric_limits<float>::infinity();
  std::fill(scores, scores + std::clamp<int64_t>(first, 0, whole), none);
  std::fill(scores + std::clamp<int64_t>(count, 0, whole), scores + whole, none);
  Vec peaks(peak), sums(0);
  for (int64_t t = 0; t < whole; t += LANES) peaks = at::vec::maximum(peaks, load(scores + t));
  peak = most(peaks);
  const Vec top(peak == none ? 0 : peak);
  for (int64_t t = 0; t < whole; t += LANES) {
    const Vec weights = (load(scores + t) - top).exp_u20();
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
  for (int g = 0; g < G; g++) {
    float peak = -std::numeric_limits<float>::infinity();
    whole[g] = exponentiate(scores + g * wide, 0, count, wide, peak);
  }
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

// Tokens of one generation, from `offset` on in the step, from position `start` on in its KV memory at `address`,
// `[layers, 2, kv_heads, capacity, dim]`.
struct Segment {
  int64_t address, capacity, offset, start, length;
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
  const Segment* segments;
  int64_t count, rows;
  int threads;
};

// What a head of keys and the heads of queries that share it have of a segment.
template <typename T>
class Head {
 public:
  Head(const Attention& attention, const Step& step, const Segment& segment, int64_t head)
      : keys(reinterpret_cast<T*>(segment.address) +
             (attention.layer * 2 * attention.kv_heads + head) * segment.capacity * attention.dim),
        values(keys + attention.kv_heads * segment.capacity * attention.dim),
        attention_(attention),
        step_(step),
        segment_(segment),
        head_(head) {}

  T *const keys, *const values;

  // `[group, dim]` of a token.
  float* queries(int64_t token) const {
    const int64_t kv_heads = attention_.kv_heads, group = attention_.group;
    return step_.qkv + ((segment_.offset + token) * kv_heads * (group + 2) + head_ * group) * attention_.dim;
  }
  float* mixed(int64_t token) const {
    const int64_t row = segment_.offset + token;
    return step_.mixed + (row * attention_.kv_heads + head_) * attention_.group * attention_.dim;
  }
  // The first key that a token sees.
  int64_t first(int64_t token) const {
    return attention_.window ? std::max<int64_t>(0, segment_.start + token + 1 - attention_.window) : 0;
  }

  // Queries and key of a token turned, key and value stored.
  void place(int64_t token) const {
    const int64_t kv_heads = attention_.kv_heads, group = attention_.group, dim = attention_.dim;
    const int64_t row = segment_.offset + token, position = segment_.start + token;
    const float *const cosines = step_.cosines + row * dim, *const sines = step_.sines + row * dim;
    float* const q = queries(token);
    float* const k = step_.qkv + (row * kv_heads * (group + 2) + kv_heads * group + head_) * dim;
    const float* const v = k + kv_heads * dim;
    for (int64_t g = 0; g < group; g++) turn(attention_.query, q + g * dim, cosines, sines);
    turn(attention_.key, k, cosines, sines);
    std::copy(k, k + dim, keys + position * dim);
    std::copy(v, v + dim, values + position * dim);
  }

  // Attention of tokens from `begin` to `end`.
  void attend(int64_t begin, int64_t end) const {
    if (segment_.length > 1) return attend_prompt(begin, end);
    const int64_t from = first(0) * attention_.dim, count = segment_.start + 1 - first(0);
    attend_keys<T>(queries(0), keys + from, values + from, count, attention_.group, attention_.dim, attention_.scale,
                   mixed(0));
  }

 private:
  // Of a prompt, as products: of a block of keys after the other, whose weights are of the largest score so far. Blocks
  // begin at the same positions for all, so that it does not matter which tokens go together.
  void attend_prompt(int64_t begin, int64_t end) const {
    static thread_local std::vector<float> room;
    const int64_t group = attention_.group, dim = attention_.dim, rows = (end - begin) * group;
    room.resize(rows * (2 * dim + KEYS + 2) + PANEL * dim);
    float *const q = room.data(), *const out = q + rows * dim, *const scores = out + rows * dim;
    float *const panel = scores + rows * KEYS, *const peaks = panel + PANEL * dim, *const wholes = peaks + rows;
    for (int64_t row = 0; row < rows; row += group)
      for (int64_t i = 0; i < group * dim; i++) q[row * dim + i] = queries(begin + row / group)[i] * attention_.scale;
    std::fill(out, out + rows * dim, 0.0f);
    std::fill(peaks, peaks + rows, -std::numeric_limits<float>::infinity());
    std::fill(wholes, wholes + rows, 0.0f);
    const int64_t stop = segment_.start + end;
    for (int64_t block = first(begin) / KEYS * KEYS; block < stop; block += KEYS) {
      const int64_t count = std::min(KEYS, stop - block);
      for (int64_t key = 0; key < count; key += PANEL) {
        for (int64_t k = 0; k < std::min(PANEL, count - key); k++)
          for (int64_t i = 0; i < dim; i++) panel[i * PANEL + k] = keys[(block + key + k) * dim + i];
        panel_of_rows<float>({panel, PANEL, 0, nullptr}, q, dim, scores + key, KEYS, rows, 0, dim, false);
      }
      for (int64_t row = 0; row < rows; row++) {
        const int64_t token = begin + row / group, seen = segment_.start + token + 1 - block;
        const float before = peaks[row];
        const float whole = exponentiate(scores + row * KEYS, first(token) - block, std::min(seen, count),
                                         (count + LANES - 1) / LANES * LANES, peaks[row]);
        const float rest = before == peaks[row] ? 1 : std::exp(before - peaks[row]);
        wholes[row] = wholes[row] * rest + whole;
        if (rest == 1) continue;
        for (int64_t i = row * dim; i < (row + 1) * dim; i += LANES) (load(out + i) * Vec(rest)).store(out + i);
      }
      for (int64_t i = 0; i < dim; i += PANEL)
        panel_of_rows<T>({values + block * dim + i, dim, 0, nullptr}, scores, KEYS, out + i, dim, rows, 0, count, true);
    }
    for (int64_t row = 0; row < rows; row++)
      for (int64_t i = 0; i < dim; i += LANES)
        (load(out + row * dim + i) / Vec(wholes[row])).store(mixed(begin + row / group) + row % group * dim + i);
  }

  const Attention& attention_;
  const Step& step_;
  const Segment& segment_;
  const int64_t head_;
};

// Where tokens of a generation are tasks of several threads, all of the step store their keys before any reads them.
template <typename T>
void attend_segments(const Attention& attention, const Step& step) {
  struct Task {
    const Segment* segment;
    int64_t begin, end;
  };
  const int64_t kv_heads = attention.kv_heads, some = std::max<int64_t>(1, QUERIES / attention.group);
  std::vector<Task> tasks;
  int64_t work = 0;
  bool separate = true;
  for (const Segment* segment = step.segments; segment < step.segments + step.count; segment++) {
    separate &= segment->length == 1 && (segment == step.segments || segment->address != segment[-1].address);
    work += segment->length * (segment->start + segment->length) * kv_heads * attention.group * attention.dim;
    for (int64_t begin = 0; begin < segment->length; begin += some)
      tasks.push_back({segment, begin, std::min(begin + some, segment->length)});
  }
  const int64_t count = static_cast<int64_t>(tasks.size());
  const auto each = [&](const auto& body) {
    together.each(
        work > MULTIPLIED ? step.threads : 1, count * kv_heads,
        [&](int64_t one) {
          const Task& task = tasks[one / kv_heads];
          body(task, Head<T>(attention, step, *task.segment, one % kv_heads));
        },
        1);
  };
  if (!separate)
    each([](const Task& task, const Head<T>& head) {
      for (int64_t token = task.begin; token < task.end; token++) head.place(token);
    });
  each([&](const Task& task, const Head<T>& head) {
    if (separate) head.place(0);
    head.attend(task.begin, task.end);
  });
}

// From what heads have mixed to the next layer's hidden states.
void feed(const Layer& layer, const Step& step) {
  const int64_t rows = step.rows, count = rows * layer.before.size;
  multiply(layer.out, step.mixed, step.more, rows, step.threads);
  add(step.x, step.more, count, step.threads);
  normalize_rows(layer.between, step.x, step.normed, rows, step.threads);
  multiply(layer.gate_up, step.normed, step.both, rows, step.threads);
  gate(step.both, step.inner, rows, layer.down.inputs, step.threads);
  multiply(layer.down, step.inner, step.more, rows, step.threads);
  add(step.x, step.more, count, step.threads);
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

// From hidden states to what heads have mixed.
void attend(const Layer* layer, const Step* step) {
  normalize_rows(layer->before, step->x, step->normed, step->rows, step->threads);
  multiply(layer->qkv, step->normed, step->qkv, step->rows, step->threads);
  const int64_t kind = layer->attention.kind;
  const auto segments_of = kind == 0   ? attend_segments<float>
                           : kind == 1 ? attend_segments<at::BFloat16>
                                       : attend_segments<at::Half>;
  segments_of(layer->attention, *step);
}

void layers(const Layer* layers, int64_t count, const Step* step) {
  for (const Layer* layer = layers; layer < layers + count; layer++) {
    attend(layer, step);
    feed(*layer, *step);
  }
}
}
