// Threads that stay: one set for the process, lent to one call at a time.
// Ownership: workers are never destroyed; the end of the process ends them. A forked child starts without any.

#include "runtime/threads.hpp"

#include <pthread.h>
#include <signal.h>

#include <memory>
#include <system_error>
#include <thread>
#include <vector>

namespace screening {
namespace {

class Worker {
 public:
  Worker() {
    // Signals are for the thread that the program waits in; faults stay with whoever caused them.
    sigset_t all, before;
    sigfillset(&all);
    for (const int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP}) {
      sigdelset(&all, fault);
    }
    pthread_sigmask(SIG_SETMASK, &all, &before);
    try {
      std::thread([this] { serve(); }).detach();
    } catch (...) {
      pthread_sigmask(SIG_SETMASK, &before, nullptr);
      throw;
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }

  void start(void (*run)(void*, int), void* context, int thread) {
    run_ = run;
    context_ = context;
    thread_ = thread;
    busy_.store(1, std::memory_order_release);
    busy_.notify_one();
  }

  void finish() const { busy_.wait(1, std::memory_order_acquire); }

 private:
  [[noreturn]] void serve() {
    for (;;) {
      busy_.wait(0, std::memory_order_acquire);
      run_(context_, thread_);
      busy_.store(0, std::memory_order_release);
      busy_.notify_one();
    }
  }

  std::atomic<int> busy_{0};
  void (*run_)(void*, int) = nullptr;
  void* context_ = nullptr;
  int thread_ = 0;
};

class Pool {
 public:
  // Idle workers, new ones where there are too few; fewer than asked for where the system lets no more begin.
  std::vector<Worker*> lend(std::size_t count) {
    std::vector<Worker*> lent;
    lent.reserve(count);
    const std::lock_guard lock(mutex_);
    while (workers_.size() - lent_ < count) {
      workers_.reserve(workers_.size() + 1);
      idle_.reserve(workers_.size() + 1);
      try {
        workers_.push_back(std::make_unique<Worker>());
      } catch (const std::system_error&) {
        count = workers_.size() - lent_;  // a limit on processes: who does the work changes no result
        break;
      }
      idle_.push_back(workers_.back().get());
    }
    lent.assign(idle_.end() - static_cast<std::ptrdiff_t>(count), idle_.end());
    idle_.resize(idle_.size() - count);
    lent_ += count;
    return lent;
  }

  void take_back(const std::vector<Worker*>& lent) {
    const std::lock_guard lock(mutex_);
    idle_.insert(idle_.end(), lent.begin(), lent.end());  // within what lend() reserved
    lent_ -= lent.size();
  }

 private:
  std::mutex mutex_;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::vector<Worker*> idle_;
  std::size_t lent_ = 0;
};

Pool* the_pool = nullptr;

Pool& pool() {
  static std::once_flag once;
  std::call_once(once, [] {
    the_pool = new Pool;
    pthread_atfork(nullptr, nullptr, [] { the_pool = new Pool; });
  });
  return *the_pool;
}

}  // namespace

void run_on_threads(int threads, void (*run)(void* context, int thread), void* context) {
  Pool& lender = pool();
  const std::vector<Worker*> others = lender.lend(static_cast<std::size_t>(threads - 1));
  for (std::size_t k = 0; k < others.size(); ++k) {
    others[k]->start(run, context, static_cast<int>(k) + 1);
  }
  run(context, 0);
  for (const Worker* other : others) {
    other->finish();
  }
  lender.take_back(others);
}

}  // namespace screening
