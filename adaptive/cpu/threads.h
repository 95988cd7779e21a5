// Threads that compute together on cores that others use too; before every source that library.py builds.
//
// OpenMP gives each thread its share in advance, so that all wait for the one whose core is taken; and one that waits
// spins, or sleeps and is late. Here a share that nobody has begun is anybody's, and who waits lets others run.

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <thread>

class Threads {
 public:
  // body(number) for all numbers below `count`, in any order, on one thread or at least `threads`. share: how many are
  // one's to do at a time, by default a fraction of all.
  template <typename F>
  void each(int threads, int64_t count, const F& body, int64_t share = 0) {
    std::unique_lock<std::mutex> mine(busy_, std::defer_lock);
    if (threads < 2 || count < 2 || !mine.try_lock()) {  // not mine: they are at work for another caller
      for (int64_t one = 0; one < count; one++) body(one);
      return;
    }
    for (; helpers_ < threads - 1; helpers_++) std::thread(&Threads::help, this).detach();
    const int64_t shares = std::min<int64_t>(count, share ? (count + share - 1) / share : threads * SHARES);
    body_ = &body, count_ = count, shares_ = shares;
    run_ = [](const void* body, int64_t begin, int64_t end) {
      for (int64_t one = begin; one < end; one++) (*static_cast<const F*>(body))(one);
    };
    done_.store(0, std::memory_order_relaxed);
    left_.store(shares);
    if (asleep_.load()) {
      called_.fetch_add(1);
      called_.notify_all();
    }
    while (take());
    for (int64_t turn = 0; done_.load(std::memory_order_acquire) < shares; turn++) rest(turn);
  }

 private:
  static constexpr int64_t SHARES = 4;                     // For each thread.
  static constexpr int64_t SPINS = 20;                     // Turns of waiting before others may run.
  static constexpr std::chrono::microseconds AWAKE{2000};  // Longer than from one step's forward to the next.

  // Whether there was a share left, which is computed now.
  bool take() {
    if (left_.load(std::memory_order_relaxed) < 1) return false;
    const int64_t left = left_.fetch_sub(1, std::memory_order_acq_rel);
    if (left < 1) return false;  // others were faster
    run_(body_, count_ * (left - 1) / shares_, count_ * left / shares_);
    done_.fetch_add(1, std::memory_order_release);
    return true;
  }

  static void rest(int64_t turn) {
    if (turn > SPINS) sched_yield();
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }

  void help() {
    for (;;) {
      const auto since = std::chrono::steady_clock::now();
      for (int64_t turn = 0; !take(); turn++) {
        rest(turn);
        if (turn % 64 || std::chrono::steady_clock::now() - since < AWAKE) continue;
        const uint32_t called = called_.load();
        asleep_.fetch_add(1);
        if (left_.load() < 1) called_.wait(called);
        asleep_.fetch_sub(1);
        break;
      }
    }
  }

  std::mutex busy_;
  int helpers_ = 0;
  const void* body_ = nullptr;
  void (*run_)(const void*, int64_t, int64_t) = nullptr;
  int64_t count_ = 0, shares_ = 0;
  alignas(64) std::atomic<int64_t> left_{0};
  alignas(64) std::atomic<int64_t> done_{0};
  alignas(64) std::atomic<uint32_t> called_{0};
  std::atomic<int> asleep_{0};
};

// One for all libraries of the process, as gcc makes such a name; with any other compiler, one for each.
inline Threads& together = *new Threads;
