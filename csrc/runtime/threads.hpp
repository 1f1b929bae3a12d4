// Work shared among threads. Tasks are handed out one by one, so the result must not depend on who runs which: every
// task owns what it writes.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>

namespace screening {

// Calls run(context, thread) for every thread in [0, threads), the caller's being 0, and returns when all have; for
// fewer where the system lets no more begin, so `run` must leave no thread work of its own. The others wait for work
// between calls, so that a call costs microseconds; calls from several threads do not share them.
void run_on_threads(int threads, void (*run)(void* context, int thread), void* context);

// Calls body(task, thread) for every task in [0, tasks), thread in [0, threads). The first exception ends the hand-out
// and is thrown here.
template <class Body>
void for_each_task(std::int64_t tasks, int threads, const Body& body) {
  const int count = static_cast<int>(std::clamp<std::int64_t>(threads, 1, std::max<std::int64_t>(tasks, 1)));
  if (count == 1) {
    for (std::int64_t task = 0; task < tasks; ++task) {
      body(task, 0);
    }
    return;
  }
  std::atomic<std::int64_t> next{0};
  std::exception_ptr failure;
  std::mutex failure_mutex;
  auto work = [&](int thread) {
    try {
      for (std::int64_t task = next++; task < tasks; task = next++) {
        body(task, thread);
      }
    } catch (...) {
      next = tasks;
      const std::lock_guard lock(failure_mutex);
      if (!failure) {
        failure = std::current_exception();
      }
    }
  };
  run_on_threads(count, [](void* context, int thread) { (*static_cast<decltype(work)*>(context))(thread); }, &work);
  if (failure) {
    std::rethrow_exception(failure);
  }
}

}  // namespace screening
