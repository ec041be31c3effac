#include "pool.h"

#include <atomic>
#include <memory>
#include <mutex>
#include <sched.h>
#include <thread>
#include <unistd.h>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
static inline void pause_a_little() { _mm_pause(); }
#else
static inline void pause_a_little() { asm volatile("yield"); }
#endif

namespace {

// Some 20 us: longer than Python needs between two operations of a token, far shorter than a scheduler's turn.
constexpr int SPINS = 600;

/// Moves the calling thread to another processor, if it may run on one. Who is woken tends to be put beside the one
/// that woke it, and there runs only while that one sleeps: two threads on one processor, each waiting for the other.
void leave(int processor) {
    cpu_set_t all, others;
    if (sched_getaffinity(0, sizeof(all), &all)) return;
    others = all;
    CPU_CLR(processor, &others);
    if (CPU_COUNT(&others) == 0) return;
    sched_setaffinity(0, sizeof(others), &others);
    sched_setaffinity(0, sizeof(all), &all);
}

class Pool {
public:
    explicit Pool(int threads) {
        for (int i = 1; i < threads; i++) workers_.emplace_back([this] { work(); });
    }

    ~Pool() {
        stopping_ = true;
        begin();
        for (auto& worker : workers_) worker.join();
    }

    void run(int count, const std::function<void(int)>& task) {
        if (workers_.empty() || count == 1) {
            for (int i = 0; i < count; i++) task(i);
            return;
        }
        task_ = &task, count_ = count, done_ = 0, caller_ = sched_getcpu();
        left_.store(count, std::memory_order_release);
        begin();
        take();
        for (int done; (done = done_.load(std::memory_order_acquire)) < count;) wait(done_, done);
    }

    int threads() const { return int(workers_.size()) + 1; }
    void abandon() { for (auto& worker : workers_) worker.detach(); }

private:
    template <class T> static void wait(std::atomic<T>& value, T old) {
        for (int i = 0; i < SPINS; i++) {
            if (value.load(std::memory_order_acquire) != old) return;
            pause_a_little();
        }
        value.wait(old, std::memory_order_acquire);
    }

    void begin() {
        epoch_.fetch_add(1, std::memory_order_release);
        epoch_.notify_all();
    }

    /// Until none is left. The caller waits for tasks that were taken, not for threads that have yet to wake.
    void take() {
        for (int left = left_.load(std::memory_order_acquire); left > 0;) {
            if (!left_.compare_exchange_weak(left, left - 1, std::memory_order_acq_rel)) continue;
            const int count = count_;
            (*task_)(count - left);
            if (done_.fetch_add(1, std::memory_order_acq_rel) + 1 == count) done_.notify_all();
            left = left_.load(std::memory_order_acquire);
        }
    }

    void work() {
        for (unsigned seen = 0;;) {
            wait(epoch_, seen);
            seen = epoch_.load(std::memory_order_acquire);
            if (stopping_) return;
            if (sched_getcpu() == caller_) leave(caller_);
            take();
        }
    }

    std::vector<std::thread> workers_;
    const std::function<void(int)>* task_ = nullptr;
    int count_ = 0;
    std::atomic<int> left_{0}, done_{0}, caller_{-1};
    std::atomic<unsigned> epoch_{0};
    std::atomic<bool> stopping_{false};
};

std::mutex turn;  // several Python threads may compute; one at a time has the pool
std::unique_ptr<Pool> pool;
pid_t owner = 0;
int wanted = 1;

Pool& ready() {
    if (pool && owner != getpid()) {  // after a fork the threads are not there
        pool->abandon();
        pool.release();
    }
    if (!pool || pool->threads() != wanted) {
        pool.reset();
        pool = std::make_unique<Pool>(wanted);
        owner = getpid();
    }
    return *pool;
}

}  // namespace

void parallel(int count, const std::function<void(int)>& task) {
    std::lock_guard<std::mutex> hold(turn);
    ready().run(count, task);
}

void set_threads(int count) {
    std::lock_guard<std::mutex> hold(turn);
    wanted = count < 1 ? 1 : count;
}
