// Threads that share out numbered tasks. Which thread takes which task is left open: no task's result may depend on it.
#pragma once

#include <functional>

/// Calls task(0) ... task(count - 1), on all threads, and returns when all are done. Not for use inside of a task.
void parallel(int count, const std::function<void(int)>& task);

/// How many threads work from now on, the caller among them.
void set_threads(int count);
