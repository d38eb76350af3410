/* Runs a program, and says what it and all its descendants cost.
 *
 * measure FD PROGRAM [ARGUMENT...]: writes to FD the program's pid on a line; then, when all are gone, on a second line
 *
 *     STATUS USER SYSTEM WALL MEMORY
 *
 * the program's exit status (128 + N for signal N), CPU seconds of the whole tree in user mode and in the kernel, seconds from
 * the start to the end of the last of them, and the most memory that a single one of them ever had, in kB (no sum).
 *
 * As a child subreaper it becomes the parent of every descendant that loses its own, a daemon too, and waits for them all: so
 * each process is counted, by who reaped it. It is small, for a new process starts with the memory of who starts it.
 * At SIGTERM, and when whoever started it dies, it kills all of them.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;
static volatile sig_atomic_t end;

static void stop(int number)
{
    (void)number;
    end = 1;
}

static double seconds(struct timeval time)
{
    return time.tv_sec + time.tv_usec / 1e6;
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static void kill_children(void)
{
    FILE *file = fopen("/proc/thread-self/children", "r");
    long pid;
    if (!file)
        return;
    while (fscanf(file, "%ld", &pid) == 1)
        kill(pid, SIGKILL);
    fclose(file);
}

int main(int argc, char **argv)
{
    double user = 0, system = 0, began;
    long memory = 0;
    int out, result = 71, status;
    pid_t program, pid;
    struct rusage usage;
    struct sigaction action = {.sa_handler = stop};

    if (argc < 3)
        return 64;
    out = atoi(argv[1]);
    if (fcntl(out, F_SETFD, FD_CLOEXEC) || prctl(PR_SET_CHILD_SUBREAPER, 1L) || prctl(PR_SET_PDEATHSIG, (long)SIGTERM))
        return 71;
    sigaction(SIGTERM, &action, NULL);
    began = now();
    if (posix_spawn(&program, argv[2], NULL, NULL, argv + 2, environ))
        return 71;
    dprintf(out, "%ld\n", (long)program);
    for (;;) {
        if (end)
            kill_children();
        pid = wait4(-1, &status, end ? WNOHANG : 0, &usage);
        if (pid == 0)
            usleep(1000);
        else if (pid > 0) {
            user += seconds(usage.ru_utime);
            system += seconds(usage.ru_stime);
            if (usage.ru_maxrss > memory)
                memory = usage.ru_maxrss;
            if (pid == program)
                result = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        } else if (errno != EINTR)
            break;
    }
    dprintf(out, "%d %.6f %.6f %.6f %ld\n", result, user, system, now() - began, memory);
    return 0;
}
