// Threads that share out numbered tasks. Which thread takes which task is left open: no task's result may depend on it.
#pragma once

#include <functional>

/// Calls task(0) ... task(count - 1), on all threads, and returns when all are done. Not for use inside of a task.
void parallel(int count, const std::function<void(int)>& task);

/// Waking a thread takes some microseconds: what is done sooner is done here. ``work``: multiply-adds of all tasks.
constexpr long WORTH_SHARING = 100'000;
inline void parallel_if_worth(long work, int count, const std::function<void(int)>& task) {
    if (work >= WORTH_SHARING) return parallel(count, task);
    for (int i = 0; i < count; i++) task(i);
}

/// How many threads work from now on, the caller among them.
void set_threads(int count);
