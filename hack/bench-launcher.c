/* Runs commands in turn and prints what each round took.
 *
 *   bench-launcher [-j JOBS] ROUNDS COMMAND...
 *
 * Each COMMAND is one string of words without quotes. Round after round all
 * of them run once, each round beginning with another one, so that a slow
 * minute of the machine is everybody's. A word ";" stands between programs that
 * run one after the other and are measured together. With -j that many copies of a
 * command run at once, and all of them are measured together. "%" in a word becomes a
 * number that no other copy of that command has.
 *
 * A line a run: index, microseconds of wall time, peak resident kilobytes of the
 * largest program with what it waited for, and minor page faults of all.
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

/* A copy of `words` in which "%" is `number`; its memory is used again by the next call. */
static char **numbered(char **words, long number) {
	static char text[MAX_WORDS][256];
	static char *copy[MAX_WORDS];
	int n = 0;
	for (; words[n]; n++) {
		char *mark = strchr(words[n], '%');
		if (mark)
			snprintf(text[n], sizeof *text, "%.*s%ld%s", (int)(mark - words[n]), words[n], number, mark + 1);
		copy[n] = mark ? text[n] : words[n];
	}
	copy[n] = NULL;
	return copy;
}

/* What the programs print goes nowhere: stdout is the launcher's. */
static posix_spawn_file_actions_t silent;

/* Runs the programs of a command; adds to `peak` and `faults`. Returns 0 when all exited with 0. */
static int programs(char **words, long number, long *peak, long *faults) {
	char **word = numbered(words, number);
	while (*word) {
		char **next = word;
		while (*next && strcmp(*next, ";") != 0)
			next++;
		char **rest = *next ? next + 1 : next;
		*next = NULL;
		pid_t pid;
		if (posix_spawnp(&pid, word[0], &silent, NULL, word, environ) != 0) {
			perror(word[0]);
			return 1;
		}
		int status;
		struct rusage usage;
		if (wait4(pid, &status, 0, &usage) != pid || status != 0) {
			fprintf(stderr, "bench-launcher: %s: wait status %d\n", word[0], status);
			return 1;
		}
		if (usage.ru_maxrss > *peak)
			*peak = usage.ru_maxrss;
		*faults += usage.ru_minflt;
		word = rest;
	}
	return 0;
}

/* `jobs` copies at once, each with a launcher of its own. */
static int at_once(char **words, int jobs, long first, long *peak, long *faults) {
	for (int j = 0; j < jobs; j++) {
		pid_t pid = fork();
		if (pid == 0)
			_exit(programs(words, first + j, peak, faults));
		if (pid < 0)
			return 1;
	}
	int status, failed = 0;
	struct rusage usage;
	for (int j = 0; j < jobs; j++) {
		failed |= wait4(-1, &status, 0, &usage) < 0 || status != 0;
		if (usage.ru_maxrss > *peak)
			*peak = usage.ru_maxrss;
		*faults += usage.ru_minflt;
	}
	return failed;
}

int main(int argc, char **argv) {
	static char *words[MAX_COMMANDS][MAX_WORDS];
	int jobs = 1;
	if (argc > 2 && strcmp(argv[1], "-j") == 0) {
		jobs = atoi(argv[2]);
		argc -= 2;
		argv += 2;
	}
	int commands = argc - 2;
	if (commands < 1 || commands > MAX_COMMANDS || jobs < 1) {
		fprintf(stderr, "usage: bench-launcher [-j JOBS] ROUNDS COMMAND...\n");
		return 2;
	}
	for (int c = 0; c < commands; c++)
		split(argv[c + 2], words[c]);
	posix_spawn_file_actions_init(&silent);
	posix_spawn_file_actions_addopen(&silent, 1, "/dev/null", O_WRONLY, 0);
	int rounds = atoi(argv[1]);
	for (int r = 0; r < rounds; r++)
		for (int c = 0; c < commands; c++) {
			int index = (r + c) % commands;
			long peak = 0, faults = 0, first = (long)r * jobs;
			long long began = now();
			int failed = jobs == 1 ? programs(words[index], first, &peak, &faults)
				: at_once(words[index], jobs, first, &peak, &faults);
			if (failed)
				return 1;
			printf("%d %lld %ld %ld\n", index, now() - began, peak, faults);
			fflush(stdout);
		}
	return 0;
}
