/* The floor: N times one plugin, one after the other, and nothing else. What any monitor spends at the least.
 *
 * floor N PLUGIN: starts PLUGIN with a host's name, reads what it prints to the end, waits for it; fails unless that is
 * "OK ...".
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

int main(int argc, char **argv)
{
    if (argc != 3)
        return 64;
    for (long number = 0; number < atol(argv[1]); number++) {
        char host[48], said[4096];
        char *command[] = {argv[2], host, NULL};
        int ends[2], status;
        ssize_t length = 0, more;
        pid_t pid;
        posix_spawn_file_actions_t actions;

        snprintf(host, sizeof host, "h%05ld.example.com", number);
        if (pipe2(ends, O_CLOEXEC) || posix_spawn_file_actions_init(&actions) ||
            posix_spawn_file_actions_adddup2(&actions, ends[1], 1) ||
            posix_spawn(&pid, argv[2], &actions, NULL, command, environ))
            return 71;
        posix_spawn_file_actions_destroy(&actions);
        close(ends[1]);
        while (length < (ssize_t)sizeof said && (more = read(ends[0], said + length, sizeof said - length)) > 0)
            length += more;
        close(ends[0]);
        if (waitpid(pid, &status, 0) != pid || status || length < 2 || memcmp(said, "OK", 2))
            return 70;
    }
    return 0;
}
