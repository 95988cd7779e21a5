// The sampler on the CPU, from logits to report: see fused.py, which has it compiled.
//
// A row is worked on by one thread, in an order that depends on nothing but the row, so that its bits are the same in
// any company. Logits are float32, `[rows, vocab]`; sums over whole rows are float64, of blocks that are summed in
// float32.

#include <ATen/cpu/vec/functional.h>
#include <ATen/cpu/vec/vec.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numeric>
#include <vector>

using Vec = at::vec::Vectorized<float>;
using Wide = at::vec::Vectorized<double>;

namespace {

constexpr int64_t LANES = Vec::size();
constexpr int64_t BLOCK = 64;           // Tokens whose maximum is known, and of what is left the mass.
constexpr int64_t BINS = 1024;          // Of logits, among which top_k and top_p end.
constexpr int64_t WORTH = 1 << 15;      // Logits that take longer to visit than a thread to wake.
constexpr int64_t SMALL = 2048;         // A vocabulary with which float64 costs nothing.
constexpr double DEEPEST = 70;          // e to what lies deeper adds nothing to a sum of at least 1.
constexpr double DEEPEST_WIDE = 700;    // The same in float64.
constexpr double LEAST_INVERSE = 1e-9;  // Below it float32 has no room for the cube of a logit.
constexpr double LARGEST_INVERSE = 1e12;
constexpr double INFINITE = std::numeric_limits<double>::infinity(), ABSENT = std::numeric_limits<double>::quiet_NaN();
constexpr float LOWEST = std::numeric_limits<float>::lowest();

// What is known of a row before anything is decided. ahead: at a temperature that was known before.
struct Found {
  double maximum, best, entropy, varentropy, top_prob, normalizer, log_sum, mean, square, cube, ahead_log_sum,
      ahead_entropy;
};

// Logits, and room for what is found of them. found: `Found`, column by column; maxima: of each block, `[rows,
// blocks]`.
struct Batch {
  const float* logits;
  double* found;
  float* maxima;
  int64_t rows, vocab;
  int threads;
};

// What is asked for, `[rows]`; NaN where off or not known. log_sums, entropies, surprisal, saturated, infeasible may be
// none: see Control in adaptive/policies/base.py.
struct Asked {
  const double *temperatures, *log_sums, *entropies, *top_k, *top_p, *min_p, *surprisal, *saturated, *infeasible;
};

// What is left of a row: FIGURES of adaptive/pool.py, floors of adaptive/floors.py.
struct Left {
  double kept_mass, final_entropy, effective, top_token_prob, log_sum, scaled_entropy, floor, edge, limit;
};

// The record of a row: SamplingInfo of adaptive/info.py but for its state.
struct Record {
  double token, fault, original_entropy, final_entropy, effective_vocab_size, original_vocab_size, top_token_prob,
      temperature, top_k, top_p, min_p, varentropy, scaled_entropy, original_top_prob, kept_mass, saturated, infeasible,
      constraint_mass, logprob, filtered_logprob, rank;
};

template <typename T>
T read(const double* columns, int64_t rows, int64_t row) {
  T value;
  for (size_t i = 0; i < sizeof(T) / sizeof(double); i++)
    reinterpret_cast<double*>(&value)[i] = columns[i * rows + row];
  return value;
}

template <typename T>
void write(double* columns, int64_t rows, int64_t row, const T& value) {
  for (size_t i = 0; i < sizeof(T) / sizeof(double); i++)
    columns[i * rows + row] = reinterpret_cast<const double*>(&value)[i];
}

int64_t blocks_of(int64_t vocab) { return (vocab + BLOCK - 1) / BLOCK; }

// A row in whole blocks: the last one is filled up with impossible tokens.
class Row {
 public:
  Row(const Batch& batch, int64_t row)
      : vocab(batch.vocab),
        count(blocks_of(vocab)),
        maxima(batch.maxima + row * count),
        logits_(batch.logits + row * vocab),
        full_(vocab / BLOCK) {
    std::fill(rest_, rest_ + BLOCK, -std::numeric_limits<float>::infinity());
    std::copy(logits_ + full_ * BLOCK, logits_ + vocab, rest_);
  }
  const float* block(int64_t number) const { return number < full_ ? logits_ + number * BLOCK : rest_; }
  float logit(int64_t token) const { return logits_[token]; }

  const int64_t vocab, count;
  float* const maxima;

 private:
  const float* const logits_;
  const int64_t full_;
  float rest_[BLOCK];
};

template <typename F>
void each(int64_t count, const Batch& batch, const F& body) {
  together.each(count * batch.vocab > WORTH ? batch.threads : 1, count, body, 1);
}

double inverse_of(double temperature) { return temperature == 0 ? 1 : std::min(1 / temperature, LARGEST_INVERSE); }

// exp(y / T) for logits y less their maximum, from `lowest` on.
struct Scale {
  explicit Scale(double inverse)
      : factor(inverse * M_LOG2E),
        high(static_cast<float>(factor)),
        low(static_cast<float>(factor - static_cast<float>(factor))),
        lowest(static_cast<float>(-DEEPEST / inverse)) {}
  const double factor;
  const Vec high, low;
  const float lowest;

  // As 2^whole 2^part. The product is never rounded: part is as exact where y is deep. Off by 2 units in the last
  // place.
  Vec exp(const Vec& y) const {
    const Vec shifter(12582912.0f);  // 1.5 * 2^23: the sum has the whole part in its lowest bits
    const Vec shifted = at::vec::fmadd(y, high, shifter), whole = shifted - shifter;
    const Vec part = at::vec::fmadd(y, low, at::vec::fmsub(y, high, whole));
    Vec power(0.00015353360504377633f);  // least squares, weighted until the largest relative error was least: 2e-9
    for (const float next : {0.0013398875016719103f, 0.00961843691766262f, 0.055503323674201965f, 0.24022647738456726f,
                             0.6931471824645996f, 1.0f})
      power = at::vec::fmadd(power, part, Vec(next));
    at::vec::Vectorized<int32_t> bits, exponent;
    std::memcpy(&bits, &power, sizeof bits);
    std::memcpy(&exponent, &shifted, sizeof exponent);
    bits = bits + (exponent << at::vec::Vectorized<int32_t>(23));
    std::memcpy(&power, &bits, sizeof bits);
    return power;
  }
};

float lane_sum(const Vec& lanes) {
  return at::vec::VecReduceAllSIMD<float, std::plus<Vec>>::apply(std::plus<Vec>(), lanes);
}

float largest(const Vec& lanes) {
  auto larger = [](const Vec& one, const Vec& other) { return at::vec::maximum(one, other); };
  return at::vec::VecReduceAllSIMD<float, decltype(larger)>::apply(larger, lanes);
}

// Sums of p, p y, p y y and p y y y over a row, p = exp(y / T), y = logit - maximum; as far as they were asked for.
struct Sums {
  double total = 0, mean = 0, square = 0, cube = 0;
};

template <int ORDER>
Sums visit_quickly(const Row& row, float top, double inverse) {
  const Scale scale(inverse);
  double lanes[ORDER + 1][LANES] = {};
  for (int64_t number = 0; number < row.count; number++) {
    if (row.maxima[number] - top < scale.lowest) continue;
    const float* const z = row.block(number);
    Vec sums[ORDER + 1];
    for (Vec& one : sums) one = Vec(0);
    for (int64_t i = 0; i < BLOCK; i += LANES) {
      const Vec y = at::vec::clamp_min(Vec::loadu(z + i) - Vec(top), Vec(scale.lowest));
      Vec power = scale.exp(y);
      sums[0] = sums[0] + power;
      for (int order = 1; order <= ORDER; order++) {
        power = power * y;
        sums[order] = sums[order] + power;
      }
    }
    for (int order = 0; order <= ORDER; order++) {
      float block[LANES];
      sums[order].store(block);
      for (int64_t lane = 0; lane < LANES; lane++) lanes[order][lane] += block[lane];
    }
  }
  double found[4] = {};
  for (int order = 0; order <= ORDER; order++)
    for (const double lane : lanes[order]) found[order] += lane;
  return {found[0], found[1], found[2], found[3]};
}

Sums visit_precisely(const Row& row, float top, double inverse) {
  const double lowest = -DEEPEST_WIDE / inverse;
  Wide sums[4];
  for (Wide& one : sums) one = Wide(0);
  for (int64_t number = 0; number < row.count; number++) {
    if (row.maxima[number] - static_cast<double>(top) < lowest) continue;
    const float* const z = row.block(number);
    for (int64_t i = 0; i < BLOCK; i += Wide::size()) {
      double wide[Wide::size()];
      for (int lane = 0; lane < Wide::size(); lane++) wide[lane] = static_cast<double>(z[i + lane]) - top;
      const Wide y = at::vec::clamp_min(Wide::loadu(wide), Wide(lowest));
      Wide power = (y * Wide(inverse)).exp();
      for (Wide& one : sums) {
        one = one + power;
        power = power * y;
      }
    }
  }
  double found[4] = {};
  for (int order = 0; order < 4; order++) {
    double lanes[Wide::size()];
    sums[order].store(lanes);
    for (const double lane : lanes) found[order] += lane;
  }
  return {found[0], found[1], found[2], found[3]};
}

template <int ORDER>
Sums visit(const Row& row, float top, double inverse, bool precise = false) {
  return precise || inverse < LEAST_INVERSE ? visit_precisely(row, top, inverse)
                                            : visit_quickly<ORDER>(row, top, inverse);
}

double entropy_of(const Sums& sums, double inverse) {
  return std::max(std::log(sums.total) - inverse * sums.mean / sums.total, 0.0);
}

void survey_row(const Batch& batch, const double* ahead, int64_t number) {
  const Row row(batch, number);
  Vec peaks(-std::numeric_limits<float>::infinity());
  for (int64_t b = 0; b < row.count; b++) {
    const float* const z = row.block(b);
    Vec peak = Vec::loadu(z);
    for (int64_t i = LANES; i < BLOCK; i += LANES) peak = at::vec::maximum(peak, Vec::loadu(z + i));
    peaks = at::vec::maximum(peaks, peak);
    row.maxima[b] = largest(peak);
  }
  const float top = largest(peaks);
  Found found;
  std::fill_n(&found.maximum, sizeof(Found) / sizeof(double), ABSENT);
  found.maximum = top;
  found.best = 0;
  if (std::isfinite(top)) {  // else it is no distribution
    const int64_t block = std::find(row.maxima, row.maxima + row.count, top) - row.maxima;
    const float* const z = row.block(block);
    found.best = static_cast<double>(block * BLOCK + (std::find(z, z + BLOCK, top) - z));
    const Sums sums = visit<3>(row, top, 1);
    found.log_sum = std::log(sums.total);
    found.mean = sums.mean / sums.total;
    found.square = sums.square / sums.total;
    found.cube = sums.cube / sums.total;
    found.entropy = entropy_of(sums, 1);
    found.varentropy = std::max(found.square - found.mean * found.mean, 0.0);
    found.top_prob = 1 / sums.total;
    found.normalizer = found.maximum + found.log_sum;
    if (ahead && std::isfinite(ahead[number])) {
      const Sums then = ahead[number] == 1 ? sums : visit<1>(row, top, ahead[number]);
      found.ahead_log_sum = std::log(then.total);
      found.ahead_entropy = entropy_of(then, ahead[number]);
    }
  }
  write(batch.found, batch.rows, number, found);
}

// y / T of softmax(y / T): the logarithm of the sum of its exp, its mean, and the means of its powers.
struct Moments {
  Moments(const Sums& sums, double inverse)
      : log_sum(std::log(sums.total)),
        mean(inverse * sums.mean / sums.total),
        square(inverse * inverse * sums.square / sums.total),
        cube(inverse * inverse * inverse * sums.cube / sums.total) {}
  explicit Moments(const Found& found)
      : log_sum(found.log_sum), mean(found.mean), square(found.square), cube(found.cube) {}
  double log_sum, mean, square, cube;
};

int64_t count_of(const Row& row, float least) {
  int64_t count = 0;
  for (int64_t token = 0; token < row.vocab; token++) count += row.logit(token) >= least;
  return count;
}

// What a search finds, `[members]` each: see Control in adaptive/policies/base.py.
struct Control {
  double *temperatures, *saturated, *infeasible, *log_sums, *entropies;
};

// The temperature of the target entropy: Halley's iteration on ln H over u = ln T, within a bracket that shrinks, as
// adaptive/search.py has it.
void search_row(const Batch& batch, int64_t number, double target, double coldest, double hottest, const Control& out,
                int64_t member) {
  const Row row(batch, number);
  const Found found = read<Found>(batch.found, batch.rows, number);
  const double bottom = std::log(coldest), ceiling = std::log(hottest);
  const float top = static_cast<float>(found.maximum);
  double u = std::min(std::max(0.0, bottom), ceiling), low = bottom, high = ceiling, log_sum = ABSENT, h = ABSENT;
  bool precise = row.vocab < SMALL, tried_low = false, tried_high = false, beyond = false, known = u == 0 && !precise;
  for (int round = 0; round < 50 && std::isfinite(top); round++) {
    const double inverse = std::exp(-u);
    const Moments at = known ? Moments(found) : Moments(visit<3>(row, top, inverse, precise), inverse);
    known = false;
    log_sum = at.log_sum;
    h = std::max(at.log_sum - at.mean, 0.0);
    const double slope = std::max(at.square - at.mean * at.mean, 0.0);
    const double third = at.cube - at.mean * (3 * at.square - 2 * at.mean * at.mean), bend = -2 * slope - third;
    const double near = precise ? 1e-9 : 1e-7, error = target - h;
    const bool cold = u <= bottom, hot = u >= ceiling;
    beyond = (hot && error > near) || (cold && error < -near);
    const bool there = beyond || !(std::abs(error) > near);
    (error > 0 ? low : high) = u;
    tried_low |= cold;
    tried_high |= hot;
    const double steep = std::max(slope, 1e-300), newton = std::log(target / h) * h / steep;
    const double straight = 1 + newton / 2 * (bend / steep - slope / h);
    // h = 0 gives no step, and a target of 0 none downwards: both leave the bracket.
    const double step = h > 0 ? newton / (straight == straight ? std::min(std::max(straight, 0.5), 2.0) : 1) : INFINITE;
    const double goal = u + step;
    const bool inside = goal > low && goal < high;
    // What a small step of Halley's leaves is of the order of error times its square, and need not be measured.
    const bool small = inside && std::abs(step) < 1e-2 && std::abs(error * step * step) < near;
    double next = goal;
    if (there)
      next = u;
    else if (!inside)  // a bound that is still untried, or else half of what is left
      next = goal <= low && !tried_low ? bottom : goal >= high && !tried_high ? ceiling : (low + high) / 2;
    // What was measured a step before is carried on to it.
    const double moved = next - u, change = std::exp(-moved) - 1;
    u = next;
    log_sum += change * (log_sum - h + change / 2 * (slope + change / 3 * third));
    h = std::max(h + moved * (slope + moved / 2 * bend), 0.0);
    if (!there && !small) continue;
    // Where float32 may miss a millionth of a nat, or that would show in the temperature.
    const bool trusted = (target <= 5 && slope >= 0.05 && slope <= 16) || (beyond && std::abs(error) > 1e-5);
    if (precise || trusted) break;
    precise = true;
    low = bottom;
    high = ceiling;
    tried_low = tried_high = false;
  }
  out.temperatures[member] = std::exp(u);
  out.saturated[member] = beyond;
  // The ends, neither of which is reached: T -> 0 leaves the ties at the top, T -> inf all that is possible.
  out.infeasible[member] = beyond && (target <= std::log(static_cast<double>(count_of(row, top))) ||
                                      target >= std::log(static_cast<double>(count_of(row, LOWEST))));
  out.log_sums[member] = log_sum;
  out.entropies[member] = h;
}

// The integer of a logit that is in the same order.
double key_of(float z) {
  int32_t bits;
  z += 0.0f;  // no -0
  std::memcpy(&bits, &z, sizeof bits);
  return bits ^ ((bits >> 31) & 0x7FFFFFFF);
}

float logit_of(double key) {
  int32_t bits = static_cast<int32_t>(key);
  bits ^= (bits >> 31) & 0x7FFFFFFF;
  float z;
  std::memcpy(&z, &bits, sizeof z);
  return z;
}

float at_least(double value) {  // the lowest float that is
  const float near = static_cast<float>(value);
  return near < value ? std::nextafter(near, std::numeric_limits<float>::infinity()) : near;
}

double* masses_of(double* left, const Batch& batch, const Row& row, int64_t number) {
  return left + sizeof(Left) / sizeof(double) * batch.rows + number * row.count;
}

// What is left: of tokens whose y / T is at least `limit` those above a floor, and of those at it the ids from `edge`
// on.
struct Kept {
  float floor = LOWEST, limit = LOWEST;
  int64_t edge = 0;
};

// A token among which top_k or top_p ends.
struct Member {
  float z;
  double weight;
  int64_t token;
};

double add_mass(double sum, const Member& one) { return sum + one.weight; }

// Where top_k or top_p ends: the lowest logit that it keeps, what the tokens above it add up to, and of those with just
// it what each weighs and who they are.
struct End {
  float floor;
  double above, weight;
  std::vector<int64_t> ties;
};

// Where members, and what is more likely than all of them, reach a goal, in number or in mass; the last of them if they
// never do. before: what those more likely ones add up to. It halves the members instead of sorting them.
End end_of(std::vector<Member>& members, double before, double goal, bool by_mass) {
  const auto add = [&](double sum, const Member& one) { return by_mass ? add_mass(sum, one) : sum + 1; };
  auto first = members.begin(), beyond = members.end();
  double reached = before;
  while (beyond - first > 1) {
    const auto middle = first + (beyond - first) / 2;
    std::nth_element(first, middle, beyond, [](const Member& one, const Member& other) { return one.z > other.z; });
    const double upper = std::accumulate(first, middle, reached, add);
    (upper >= goal ? beyond : first) = middle;
    if (first == middle) reached = upper;
  }
  End end{first->z, before, first->weight, {}};
  for (const Member& member : members) {
    if (member.z > end.floor) end.above = add(end.above, member);
    if (member.z == end.floor) end.ties.push_back(member.token);
  }
  return end;
}

// What is left of a row, and its weights exp(y / T).
class View {
 public:
  View(const Row& row, float top, double inverse, const Kept& kept)
      : row_(row), kept_(kept), scale_(inverse), top_(top), inverse_(static_cast<float>(inverse)) {}

  // `take(z, token, y, left)` for the tokens of a block, from the one at z on; left: a mask, and where it is set y is
  // no deeper than the scale reaches.
  template <typename F>
  void block(int64_t number, const F& take) const {
    if (row_.maxima[number] < kept_.floor || (row_.maxima[number] - top_) * inverse_ < kept_.limit) return;
    const float* z = row_.block(number);
    float copy[BLOCK];
    if (kept_.edge > number * BLOCK) {
      std::copy(z, z + BLOCK, copy);
      for (int64_t i = 0; i < std::min(BLOCK, kept_.edge - number * BLOCK); i++)
        if (z[i] == kept_.floor) copy[i] = -std::numeric_limits<float>::infinity();
      z = copy;
    }
    for (int64_t i = 0; i < BLOCK; i += LANES) {
      const Vec logits = Vec::loadu(z + i), y = logits - Vec(top_);
      const Vec left = (logits >= Vec(kept_.floor)) & (y * Vec(inverse_) >= Vec(kept_.limit));
      take(z + i, number * BLOCK + i, at::vec::clamp_min(y, Vec(scale_.lowest)), left);
    }
  }

  Vec weights(const Vec& y) const { return scale_.exp(y); }

  double mass() const {
    double sum = 0;
    blocks([&](const float*, int64_t, const Vec& y, const Vec& left) { sum += lane_sum(weights(y) & left); });
    return sum;
  }

  std::vector<Member> members() const {
    return members([](const Vec& y) { return y == y; });
  }

  // Where it reaches a goal, in number or in mass: a histogram tells among which few.
  End end(double goal, bool by_mass) const {
    // Without a floor what is deepest shares the last bin.
    const double depth = kept_.floor > LOWEST ? static_cast<double>(top_) - kept_.floor : -scale_.lowest;
    const Vec steps(static_cast<float>(depth > 0 ? std::max((1 - BINS) / depth, -1e30) : 0));
    const auto bins_of = [&](const Vec& y) { return at::vec::clamp_max(y * steps, Vec(BINS - 1)).floor(); };
    double bins[BINS + 1] = {};  // the last is for what is not left
    blocks([&](const float*, int64_t, const Vec& y, const Vec& left) {
      int32_t places[LANES];
      float amounts[LANES];
      (by_mass ? weights(y) : Vec(1)).store(amounts);
      at::vec::convert_to_int_of_same_size(Vec::blendv(Vec(BINS), bins_of(y), left)).store(places);
      for (int64_t lane = 0; lane < LANES; lane++) bins[places[lane]] += amounts[lane];
    });
    double before = 0, reached = 0;
    int64_t last = 0;
    for (int64_t bin = 0; bin < BINS && reached < goal; bin++) {
      if (bins[bin] == 0) continue;
      before = reached;
      reached += bins[bin];
      last = bin;
    }
    std::vector<Member> some = members([&](const Vec& y) { return bins_of(y) == Vec(last); });
    return end_of(some, before, goal, by_mass);
  }

 private:
  template <typename F>
  void blocks(const F& take) const {
    for (int64_t number = 0; number < row_.count; number++) block(number, take);
  }

  // Those that `which` picks, a mask of their y.
  template <typename F>
  std::vector<Member> members(const F& which) const {
    std::vector<Member> members;
    blocks([&](const float* z, int64_t token, const Vec& y, const Vec& left) {
      const Vec here = which(y) & left & Vec(1);
      if (here.zero_mask() == (1 << LANES) - 1) return;
      float amounts[LANES], flags[LANES];
      weights(y).store(amounts);
      here.store(flags);
      for (int64_t lane = 0; lane < LANES; lane++)
        if (flags[lane] != 0) members.push_back({z[lane], amounts[lane], token + lane});
    });
    return members;
  }

  const Row& row_;
  const Kept kept_;
  const Scale scale_;
  const float top_, inverse_;
};

// What max_surprisal, top_k, top_p and min_p leave, in this order. total, entropy: the sum of exp(y / T) of the row,
// and after temperature.
Kept filter(const Row& row, float top, double inverse, double total, double entropy, double most, double k, double p,
            double low_p) {
  Kept kept;
  const bool drops = most == most, by_k = k == k, by_p = p < 1;
  const float limit = at_least(std::min(drops ? std::log(total) - most : -INFINITE, 0.0));
  kept.limit = std::max(limit, at_least(low_p > 0 ? std::log(low_p) : -INFINITE));
  if (!by_k && !by_p) return kept;
  const auto from = [&](float floor) { return View(row, top, inverse, {floor, limit, 0}); };
  // Mostly the few most likely will do: so many blocks have a token that is as large as a certain one.
  const double reach = by_k ? k : 2 * std::exp(entropy) + 16, most_blocks = by_k ? row.count : row.count / 2.0;
  std::vector<Member> few;
  if (reach <= most_blocks) {
    std::vector<float> maxima(row.maxima, row.maxima + row.count);
    const auto last = maxima.begin() + static_cast<int64_t>(reach) - 1;
    std::nth_element(maxima.begin(), last, maxima.end(), std::greater<float>());
    few = from(std::max(*last, LOWEST)).members();
  }
  if (by_k)
    kept.floor = (static_cast<double>(few.size()) >= k ? end_of(few, 0, k, false) : from(LOWEST).end(k, false)).floor;
  if (!by_p) return kept;
  const double goal = p * (by_k || drops ? from(kept.floor).mass() : total);
  const bool enough = std::accumulate(few.begin(), few.end(), 0.0, add_mass) >= goal;
  // Without these, all that lie below the cut would together be too few for top_p to keep any.
  const double least = by_k || drops ? kept.floor : top + (std::log((1 - p) * total / row.vocab) - 0.01) / inverse;
  const float cut = std::min(std::max(static_cast<float>(least), LOWEST), top);
  End end = enough ? end_of(few, 0, goal, true) : from(cut).end(goal, true);
  kept.floor = end.floor;
  // Its end may part equals, of which the higher ids stay.
  const double needed = std::max(std::ceil((goal - end.above) / end.weight), 1.0);
  if (needed < static_cast<double>(end.ties.size())) {
    const auto first = end.ties.end() - static_cast<int64_t>(needed);
    std::nth_element(end.ties.begin(), first, end.ties.end());
    kept.edge = *first;
  }
  return kept;
}

// left: `Left` of all rows, column by column, and after it what is left of each block weighs, `[rows, blocks]`.
void keep_row(const Batch& batch, const Asked& asked, double* left, int64_t number) {
  const Row row(batch, number);
  const Found found = read<Found>(batch.found, batch.rows, number);
  const float top = static_cast<float>(found.maximum);
  const double temperature = asked.temperatures[number], inverse = inverse_of(temperature);
  if (!std::isfinite(top) || !std::isfinite(temperature)) {
    constexpr double nothing = std::numeric_limits<int32_t>::max();
    write(left, batch.rows, number, Left{ABSENT, ABSENT, ABSENT, ABSENT, ABSENT, ABSENT, nothing, 0, 0});
    return;
  }
  double log_sum = asked.log_sums ? asked.log_sums[number] : ABSENT;
  double entropy = asked.entropies ? asked.entropies[number] : ABSENT;
  if (inverse == 1) {
    log_sum = found.log_sum;
    entropy = found.entropy;
  } else if (!(log_sum == log_sum && entropy == entropy)) {
    const Sums sums = visit<1>(row, top, inverse);
    log_sum = std::log(sums.total);
    entropy = entropy_of(sums, inverse);
  }
  const double total = std::exp(log_sum);
  if (temperature == 0) {
    write(left, batch.rows, number, Left{1 / total, 0, 1, 1, log_sum, entropy, key_of(top), found.best, 0});
    return;
  }
  const double most = asked.surprisal ? asked.surprisal[number] : ABSENT;
  const Kept kept =
      filter(row, top, inverse, total, entropy, most, asked.top_k[number], asked.top_p[number], asked.min_p[number]);
  double* const masses = masses_of(left, batch, row, number);
  double mass = 0, inner = 0, count = 0;
  const View view(row, top, inverse, kept);
  for (int64_t block = 0; block < row.count; block++) {
    Vec mass_here(0), inner_here(0), count_here(0);
    view.block(block, [&](const float*, int64_t, const Vec& y, const Vec& here) {
      const Vec weight = view.weights(y) & here;
      mass_here = mass_here + weight;
      inner_here = at::vec::fmadd(weight, y, inner_here);
      count_here = count_here + (here & Vec(1));
    });
    masses[block] = lane_sum(mass_here);
    mass += masses[block];
    inner += lane_sum(inner_here);
    count += lane_sum(count_here);
  }
  const double final = std::log(mass) - inverse * inner / mass, edge = static_cast<double>(kept.edge);
  write(left, batch.rows, number,
        Left{mass / total, final, count, 1 / mass, log_sum, entropy, key_of(kept.floor), edge, kept.limit});
}

// The token with which the sum of weights in the order of ids is above u times the whole.
int64_t draw_token(const Row& row, const View& view, const double* masses, double u) {
  double mass = 0, before = 0, sum = 0;
  for (int64_t block = 0; block < row.count; block++) mass += masses[block];
  const double goal = u * mass;
  int64_t chosen = 0, token = 0;
  for (int64_t block = 0; block < row.count && sum <= goal; block++) {
    if (masses[block] == 0) continue;
    before = sum;
    sum += masses[block];
    chosen = block;  // rounding may lead the goal past the last that has any
  }
  double running = before;
  view.block(chosen, [&](const float*, int64_t first, const Vec& y, const Vec& left) {
    float lanes[LANES];
    (view.weights(y) & left).store(lanes);
    for (int64_t lane = 0; lane < LANES; lane++) {
      if (lanes[lane] == 0 || running > goal) continue;
      running += lanes[lane];
      token = first + lane;
    }
  });
  return token;
}

double larger_than(const Row& row, float z) {
  Vec count(0);
  for (int64_t number = 0; number < row.count; number++) {
    if (!(row.maxima[number] > z)) continue;
    for (int64_t i = 0; i < BLOCK; i += LANES) count = count + ((Vec::loadu(row.block(number) + i) > Vec(z)) & Vec(1));
  }
  return lane_sum(count);
}

void draw_row(const Batch& batch, const Asked& asked, double* left, const double* numbers, int64_t* tokens,
              Record* records, int64_t number) {
  const Row row(batch, number);
  const Found found = read<Found>(batch.found, batch.rows, number);
  const float top = static_cast<float>(found.maximum);
  const double temperature = asked.temperatures[number], inverse = inverse_of(temperature);
  const bool sound = std::isfinite(top), decided = std::isfinite(temperature), greedy = temperature == 0;
  const Left kept = read<Left>(left, batch.rows, number);
  int64_t token = static_cast<int64_t>(found.best);
  if (sound && decided && !greedy) {
    const Kept bounds{logit_of(kept.floor), static_cast<float>(kept.limit), static_cast<int64_t>(kept.edge)};
    token = draw_token(row, View(row, top, inverse, bounds), masses_of(left, batch, row, number), numbers[number]);
  }
  tokens[number] = token;
  const float own = row.logit(token);
  const auto or_off = [&](double value, double off) { return value == value ? value : off; };
  Record& record = records[number];
  record.token = static_cast<double>(token);
  record.fault = !sound ? 1 : !decided ? 2 : 0;
  record.original_entropy = found.entropy;
  record.final_entropy = kept.final_entropy;
  record.effective_vocab_size = kept.effective;
  record.original_vocab_size = ABSENT;  // the host knows
  record.top_token_prob = kept.top_token_prob;
  record.temperature = temperature;
  record.top_k = or_off(asked.top_k[number], 0);
  record.top_p = or_off(asked.top_p[number], 1);
  record.min_p = or_off(asked.min_p[number], 0);
  record.varentropy = found.varentropy;
  record.scaled_entropy = greedy ? ABSENT : kept.scaled_entropy;
  record.original_top_prob = found.top_prob;
  record.kept_mass = greedy ? ABSENT : kept.kept_mass;
  record.saturated = asked.saturated ? asked.saturated[number] : ABSENT;
  record.infeasible = asked.infeasible ? asked.infeasible[number] : ABSENT;
  record.constraint_mass = ABSENT;
  record.logprob = own - found.normalizer;
  record.filtered_logprob =
      greedy ? 0 : static_cast<double>(own - top) * inverse - kept.log_sum - std::log(kept.kept_mass);
  record.rank = sound ? larger_than(row, own) : 0;
}

}  // namespace

extern "C" {

int64_t block() { return BLOCK; }

// ahead: 1 / T that is known before, NaN where it is not; or none.
void survey(const Batch* batch, const double* ahead) {
  each(batch->rows, *batch, [&](int64_t row) { survey_row(*batch, ahead, row); });
}

// Of rows `index`, of all if there is none. targets: nats; coldest, hottest: temperatures; `[members]`.
void search(const Batch* batch, const int64_t* index, const double* targets, const double* coldest,
            const double* hottest, const Control* out, int64_t members) {
  each(members, *batch, [&](int64_t member) {
    const int64_t row = index ? index[member] : member;
    search_row(*batch, row, targets[member], coldest[member], hottest[member], *out, member);
  });
}

void keep(const Batch* batch, const Asked* asked, double* left) {
  each(batch->rows, *batch, [&](int64_t row) { keep_row(*batch, *asked, left, row); });
}

// numbers: one in [0, 1) a row; tokens: what is drawn; records: all that is to be told.
void draw(const Batch* batch, const Asked* asked, double* left, const double* numbers, int64_t* tokens,
          Record* records) {
  each(batch->rows, *batch, [&](int64_t row) { draw_row(*batch, *asked, left, numbers, tokens, records, row); });
}
}
