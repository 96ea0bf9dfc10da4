/* Runs a command on a terminal of its own:
 *
 *   on_terminal ROWS COLUMNS COMMAND...
 *
 * What standard input holds is typed, all that the screen is sent goes to standard output. When
 * standard input ends nothing more is typed. Ends with the command, and its status. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

static int fail(const char *what)
{
    perror(what);
    return 125;
}

static void run(const char *name, const struct winsize *size, char **argv)
{
    setsid();
    int fd = open(name, O_RDWR);
    if (fd < 0 || ioctl(fd, TIOCSCTTY, 0) != 0 || ioctl(fd, TIOCSWINSZ, size) != 0)
        _exit(fail(name));
    for (int i = 0; i < 3; i++)
        dup2(fd, i);
    if (fd > 2)
        close(fd);
    execvp(argv[0], argv);
    _exit(fail(argv[0]));
}

/* Until the screen is closed. */
static void forward(int terminal)
{
    static char keys[65536], screen[65536];
    size_t n_keys = 0;
    struct pollfd ready[2] = {{.fd = STDIN_FILENO}, {.fd = terminal}};
    for (;;) {
        ready[0].events = n_keys == 0 ? POLLIN : 0;
        ready[1].events = (short)(POLLIN | (n_keys > 0 ? POLLOUT : 0));
        poll(ready, 2, -1);
        if (ready[1].revents & (POLLIN | POLLHUP)) {
            ssize_t n = read(terminal, screen, sizeof screen);
            if (n <= 0 && errno != EAGAIN)
                return;
            for (ssize_t at = 0, done; at < n; at += done)
                if ((done = write(STDOUT_FILENO, screen + at, (size_t)(n - at))) <= 0)
                    return;
        }
        if (n_keys > 0 && (ready[1].revents & POLLOUT)) {
            ssize_t n = write(terminal, keys, n_keys);
            for (size_t i = 0; n > 0 && i + (size_t)n < n_keys; i++)
                keys[i] = keys[i + (size_t)n];
            n_keys -= n > 0 ? (size_t)n : 0;
        }
        if (ready[0].revents != 0) {
            ssize_t n = read(STDIN_FILENO, keys, sizeof keys);
            if (n <= 0)
                ready[0].fd = -1;
            n_keys = n > 0 ? (size_t)n : 0;
        }
    }
}

int main(int argc, char **argv)
{
    int status, terminal = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (argc < 4 || terminal < 0 || grantpt(terminal) != 0 || unlockpt(terminal) != 0)
        return fail("on_terminal ROWS COLUMNS COMMAND...");
    struct winsize size = {
        .ws_row = (unsigned short)atoi(argv[1]), .ws_col = (unsigned short)atoi(argv[2])};
    pid_t child = fork();
    if (child == 0)
        run(ptsname(terminal), &size, argv + 3);
    fcntl(terminal, F_SETFL, O_NONBLOCK);
    if (child > 0)
        forward(terminal);
    if (child < 0 || waitpid(child, &status, 0) != child)
        return fail("on_terminal");
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
