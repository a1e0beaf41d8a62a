/* Runs commands in turn and prints what each round took.
 *
 *   bench-launcher ROUNDS COMMAND...
 *
 * Each COMMAND is one string of words without quotes. Round after round all
 * of them run once, each round beginning with another one, so that a slow
 * minute of the machine is everybody's. A line a run: index, microseconds of
 * wall time, peak resident kilobytes of the command and what it waited for.
 *
 * Static and small on purpose: a child begins with its launcher's peak memory,
 * which must not be larger than what is measured.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MAX_COMMANDS = 16, MAX_WORDS = 64 };

extern char **environ;

static long long now(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000LL + t.tv_nsec / 1000;
}

static void split(char *line, char **words) {
	int n = 0;
	for (char *w = strtok(line, " "); w && n < MAX_WORDS - 1; w = strtok(NULL, " "))
		words[n++] = w;
	words[n] = NULL;
}

/* Returns 0 when the command ran and exited with 0. */
static int run(int index, char **words) {
	long long began = now();
	pid_t pid;
	if (posix_spawnp(&pid, words[0], NULL, NULL, words, environ) != 0) {
		perror(words[0]);
		return 1;
	}
	int status;
	struct rusage usage;
	if (wait4(pid, &status, 0, &usage) != pid || status != 0) {
		fprintf(stderr, "bench-launcher: %s: wait status %d\n", words[0], status);
		return 1;
	}
	printf("%d %lld %ld\n", index, now() - began, usage.ru_maxrss);
	return 0;
}

int main(int argc, char **argv) {
	static char *words[MAX_COMMANDS][MAX_WORDS];
	int commands = argc - 2;
	if (commands < 1 || commands > MAX_COMMANDS) {
		fprintf(stderr, "usage: bench-launcher ROUNDS COMMAND...\n");
		return 2;
	}
	for (int c = 0; c < commands; c++)
		split(argv[c + 2], words[c]);
	int rounds = atoi(argv[1]);
	for (int r = 0; r < rounds; r++)
		for (int c = 0; c < commands; c++) {
			int index = (r + c) % commands;
			if (run(index, words[index]) != 0)
				return 1;
		}
	return 0;
}
